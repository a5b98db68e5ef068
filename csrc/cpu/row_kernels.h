// The inner loops of the contrastive loss: one row of a tile of dot products, vectorised.
//
// `scale` is 1 / temperature throughout; a logit is rounded once, dot * scale, alike in every loop.
#pragma once

#include <cstdint>

namespace univa::cpu {

// Sums over the pairs of a row, logits taken relative to `shift`: see RowState in reduction.h.
template <typename T>
struct RowSums {
  T e;
  T es;  // 0 unless asked for
  T k;
  T ks;
};

// The same of every column, summed over rows. Logits are relative to what is common to the rows.
template <typename T>
struct ColumnSums {
  T* e;
  T* es;  // null unless asked for
  T* k;
  T* ks;
};

// unit = row / max(|row|, 1e-12), `count` elements each; returns |row|. They may be the same memory.
double unit_row(const float* row, int64_t count, float* unit);
double unit_row(const double* row, int64_t count, double* unit);

// The largest of `count` values; -inf where there is none, NaN is none.
float largest(const float* values, int64_t count);
double largest(const double* values, int64_t count);

// Sums over one row. with_es: RowSums::es, too.
RowSums<float> sum_row(const float* dots, const float* positive, int64_t count, float scale,
                       float shift, bool with_es);
RowSums<double> sum_row(const double* dots, const double* positive, int64_t count, double scale,
                        double shift, bool with_es);

// Sums over one row, which also adds to the columns. `lift`: the row's shift less that of the
// columns; `weight` its exponential.
RowSums<float> sum_row_and_columns(const float* dots, const float* positive, int64_t count,
                                   float scale, float shift, float lift, float weight,
                                   const ColumnSums<float>& columns);
RowSums<double> sum_row_and_columns(const double* dots, const double* positive, int64_t count,
                                    double scale, double shift, double lift, double weight,
                                    const ColumnSums<double>& columns);

// What gives the gradient of a row's loss with respect to its logits: upstream (p - k / n).
template <typename T>
struct RowCoefficient {
  T log_z;
  T upstream;       // 0 where there is no positive
  T inverse_count;  // 1 / n, 0 where there is no positive
};

// The same of every column, as rows of their own.
template <typename T>
struct ColumnCoefficients {
  const T* log_z;
  const T* upstream;
  const T* inverse_count;
  const T* weight;  // exp(c - log_z) for some c common to all, null where those are far apart
};

// Turns dot products into coefficients of the rows that they are products of: of the row alone,
void coefficients_of_row(float* dots, const float* positive, int64_t count, float scale,
                         const RowCoefficient<float>& row);
void coefficients_of_row(double* dots, const double* positive, int64_t count, double scale,
                         const RowCoefficient<double>& row);

// or of the row and of each column. row_weight: exp(log_z - c) of the row, see above.
void coefficients_of_both(float* dots, const float* positive, int64_t count, float scale,
                          const RowCoefficient<float>& row, float row_weight,
                          const ColumnCoefficients<float>& columns);
void coefficients_of_both(double* dots, const double* positive, int64_t count, double scale,
                          const RowCoefficient<double>& row, double row_weight,
                          const ColumnCoefficients<double>& columns);

}  // namespace univa::cpu

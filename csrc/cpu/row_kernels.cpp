#include "cpu/row_kernels.h"

#include <cmath>
#include <limits>

#include "cpu/clones.h"
#include "cpu/vector_exp.h"
#include "univa/unit.h"

namespace univa::cpu {

namespace {

template <typename T>
UNIVA_INLINE double scaled_to_unit(const T* row, int64_t count, T* unit) {
  double squared = 0;
#pragma omp simd reduction(+ : squared)
  for (int64_t d = 0; d < count; ++d) {
    squared += static_cast<double>(row[d]) * row[d];
  }
  const double length = std::sqrt(squared);
  const double divisor = unit_divisor(length);
  if (sizeof(T) == sizeof(double)) {
    for (int64_t d = 0; d < count; ++d) {
      unit[d] = static_cast<T>(row[d] / divisor);
    }
  } else {
    const double inverse = 1.0 / divisor;  // two roundings in double are none in float
    for (int64_t d = 0; d < count; ++d) {
      unit[d] = static_cast<T>(row[d] * inverse);
    }
  }
  return length;
}

template <typename T>
UNIVA_INLINE T largest_of(const T* values, int64_t count) {
  T maximum = -std::numeric_limits<T>::infinity();
#pragma omp simd reduction(max : maximum)
  for (int64_t c = 0; c < count; ++c) {
    maximum = values[c] > maximum ? values[c] : maximum;
  }
  return maximum;
}

// A pair whose logit is infinite counts only where it has a weight: 0 * inf is 0 here.
template <typename T>
UNIVA_INLINE T weighted(T weight, T value) {
  return weight == T(0) ? T(0) : weight * value;
}

template <bool kWithEs, typename T>
UNIVA_INLINE RowSums<T> row_sums(const T* dots, const T* positive, int64_t count, T scale,
                                 T shift) {
  T sum_e = 0;
  T sum_es = 0;
  T sum_k = 0;
  T sum_ks = 0;
#pragma omp simd reduction(+ : sum_e, sum_es, sum_k, sum_ks)
  for (int64_t c = 0; c < count; ++c) {
    const T above = dots[c] * scale - shift;
    const T e = vector_exp(above);
    sum_e += e;
    sum_k += positive[c];
    sum_ks += weighted(positive[c], above);
    if (kWithEs) {
      sum_es += weighted(e, above);
    }
  }
  return {sum_e, sum_es, sum_k, sum_ks};
}

template <bool kWithEs, typename T>
UNIVA_INLINE RowSums<T> row_and_column_sums(const T* dots, const T* positive, int64_t count,
                                            T scale, T shift, T lift, T weight, T* columns_e,
                                            T* columns_es, T* columns_k, T* columns_ks) {
  T sum_e = 0;
  T sum_es = 0;
  T sum_k = 0;
  T sum_ks = 0;
#pragma omp simd reduction(+ : sum_e, sum_es, sum_k, sum_ks)
  for (int64_t c = 0; c < count; ++c) {
    const T above = dots[c] * scale - shift;
    const T e = vector_exp(above);
    const T k = positive[c];
    const T ks = weighted(k, above);
    sum_e += e;
    sum_k += k;
    sum_ks += ks;
    columns_e[c] += e * weight;
    columns_k[c] += k;
    columns_ks[c] += ks + k * lift;
    if (kWithEs) {
      const T es = weighted(e, above);
      sum_es += es;
      columns_es[c] += (es + e * lift) * weight;
    }
  }
  return {sum_e, sum_es, sum_k, sum_ks};
}

template <typename T>
UNIVA_INLINE void row_coefficients(T* dots, const T* positive, int64_t count, T scale,
                                   const RowCoefficient<T>& row) {
  const RowCoefficient<T> own = row;
#pragma omp simd
  for (int64_t c = 0; c < count; ++c) {
    const T p = vector_exp(dots[c] * scale - own.log_z);
    dots[c] = own.upstream * (p - positive[c] * own.inverse_count) * scale;
  }
}

// kNear: the columns' softmax shares from those of the row, by one product instead of an exponential.
template <bool kNear, typename T>
UNIVA_INLINE void both_coefficients(T* dots, const T* positive, int64_t count, T scale,
                                    const RowCoefficient<T>& row, T row_weight, const T* log_z,
                                    const T* upstream, const T* inverse_count, const T* weight) {
  const RowCoefficient<T> own = row;
#pragma omp simd
  for (int64_t c = 0; c < count; ++c) {
    const T logit = dots[c] * scale;
    const T p = vector_exp(logit - own.log_z);
    const T q = kNear ? p * (row_weight * weight[c]) : vector_exp(logit - log_z[c]);
    const T of_row = own.upstream * (p - positive[c] * own.inverse_count);
    const T of_column = upstream[c] * (q - positive[c] * inverse_count[c]);
    dots[c] = (of_row + of_column) * scale;
  }
}

}  // namespace

UNIVA_CLONES(double, unit_row, (const float* row, int64_t count, float* unit), (row, count, unit),
             scaled_to_unit(row, count, unit))
UNIVA_CLONES(double, unit_row, (const double* row, int64_t count, double* unit), (row, count, unit),
             scaled_to_unit(row, count, unit))

UNIVA_CLONES(float, largest, (const float* values, int64_t count), (values, count),
             largest_of(values, count))
UNIVA_CLONES(double, largest, (const double* values, int64_t count), (values, count),
             largest_of(values, count))

UNIVA_CLONES(RowSums<float>, sum_row,
             (const float* dots, const float* positive, int64_t count, float scale, float shift,
              bool with_es),
             (dots, positive, count, scale, shift, with_es),
             with_es ? row_sums<true>(dots, positive, count, scale, shift)
                     : row_sums<false>(dots, positive, count, scale, shift))
UNIVA_CLONES(RowSums<double>, sum_row,
             (const double* dots, const double* positive, int64_t count, double scale, double shift,
              bool with_es),
             (dots, positive, count, scale, shift, with_es),
             with_es ? row_sums<true>(dots, positive, count, scale, shift)
                     : row_sums<false>(dots, positive, count, scale, shift))

UNIVA_CLONES(RowSums<float>, sum_row_and_columns,
             (const float* dots, const float* positive, int64_t count, float scale, float shift,
              float lift, float weight, const ColumnSums<float>& columns),
             (dots, positive, count, scale, shift, lift, weight, columns),
             columns.es != nullptr
                 ? row_and_column_sums<true>(dots, positive, count, scale, shift, lift, weight,
                                             columns.e, columns.es, columns.k, columns.ks)
                 : row_and_column_sums<false>(dots, positive, count, scale, shift, lift, weight,
                                              columns.e, columns.es, columns.k, columns.ks))
UNIVA_CLONES(RowSums<double>, sum_row_and_columns,
             (const double* dots, const double* positive, int64_t count, double scale, double shift,
              double lift, double weight, const ColumnSums<double>& columns),
             (dots, positive, count, scale, shift, lift, weight, columns),
             columns.es != nullptr
                 ? row_and_column_sums<true>(dots, positive, count, scale, shift, lift, weight,
                                             columns.e, columns.es, columns.k, columns.ks)
                 : row_and_column_sums<false>(dots, positive, count, scale, shift, lift, weight,
                                              columns.e, columns.es, columns.k, columns.ks))

UNIVA_CLONES(void, coefficients_of_row,
             (float* dots, const float* positive, int64_t count, float scale,
              const RowCoefficient<float>& row),
             (dots, positive, count, scale, row),
             row_coefficients(dots, positive, count, scale, row))
UNIVA_CLONES(void, coefficients_of_row,
             (double* dots, const double* positive, int64_t count, double scale,
              const RowCoefficient<double>& row),
             (dots, positive, count, scale, row),
             row_coefficients(dots, positive, count, scale, row))

UNIVA_CLONES(void, coefficients_of_both,
             (float* dots, const float* positive, int64_t count, float scale,
              const RowCoefficient<float>& row, float row_weight,
              const ColumnCoefficients<float>& columns),
             (dots, positive, count, scale, row, row_weight, columns),
             columns.weight != nullptr
                 ? both_coefficients<true>(dots, positive, count, scale, row, row_weight,
                                           columns.log_z, columns.upstream, columns.inverse_count,
                                           columns.weight)
                 : both_coefficients<false>(dots, positive, count, scale, row, row_weight,
                                            columns.log_z, columns.upstream,
                                            columns.inverse_count, columns.weight))
UNIVA_CLONES(void, coefficients_of_both,
             (double* dots, const double* positive, int64_t count, double scale,
              const RowCoefficient<double>& row, double row_weight,
              const ColumnCoefficients<double>& columns),
             (dots, positive, count, scale, row, row_weight, columns),
             columns.weight != nullptr
                 ? both_coefficients<true>(dots, positive, count, scale, row, row_weight,
                                           columns.log_z, columns.upstream, columns.inverse_count,
                                           columns.weight)
                 : both_coefficients<false>(dots, positive, count, scale, row, row_weight,
                                            columns.log_z, columns.upstream,
                                            columns.inverse_count, columns.weight))

}  // namespace univa::cpu

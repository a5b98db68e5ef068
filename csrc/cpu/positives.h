// The positive weights k_ij of a row of pairs on the CPU. The self pair is the caller's.
#pragma once

#include <limits>
#include <vector>

#include "arguments.h"
#include "cpu/matrix.h"
#include "univa/positives.h"

namespace univa::cpu {

// One point and the first of the columns it is held against, whose coordinates lie as [p, M].
template <typename U>
struct Points {
  const U* point;    // [p]
  const U* columns;  // coordinate d of column c: columns[d * stride + c]
  int64_t stride;
  int64_t dimensions;
};

template <typename T, typename U>
struct PositiveRule {
  bool gaussian;
  T factor;     // gaussian: k = exp(factor d^2), in the type of the logits
  U threshold;  // else: k = 1 where d^2 < threshold, in the type of the coordinates
};

// positive[c] = k of the point and column c.
void positive_weights(const Points<float>&, const PositiveRule<float, float>&, int64_t count,
                      float* positive);
void positive_weights(const Points<double>&, const PositiveRule<float, double>&, int64_t count,
                      float* positive);
void positive_weights(const Points<float>&, const PositiveRule<double, float>&, int64_t count,
                      double* positive);
void positive_weights(const Points<double>&, const PositiveRule<double, double>&, int64_t count,
                      double* positive);

// T: the type of the logits.
template <typename T>
class Positives {
 public:
  explicit Positives(const ContrastiveArguments& arguments)
      : excludes_(arguments.options.exclude_groups) {
    if (arguments.anchor_coordinates.scalar_type() == ScalarType::Double) {
      double_.prepare(arguments);
    } else {
      float_.prepare(arguments);
    }
    if (arguments.anchor_groups.has_value()) {
      row_groups_ = arguments.anchor_groups->const_data_ptr<int64_t>();
      column_groups_ = arguments.contrast_groups->const_data_ptr<int64_t>();
    }
  }

  // dots[c] = -inf, which no sum takes up, where row and column begin + c are no pair at all.
  void exclude(int64_t row, int64_t begin, int64_t count, T* dots) const {
    if (!excludes_ || row_groups_ == nullptr) {
      return;
    }
    const int64_t group = row_groups_[row];
    const int64_t* groups = column_groups_ + begin;
    for (int64_t c = 0; c < count; ++c) {
      dots[c] = groups[c] == group ? -std::numeric_limits<T>::infinity() : dots[c];
    }
  }

  // positive[c] = k of row and column begin + c; 0 where they are no pair.
  void fill(int64_t row, int64_t begin, int64_t count, T* positive) const {
    if (double_.rows != nullptr) {
      double_.fill(row, begin, count, positive);
    } else {
      float_.fill(row, begin, count, positive);
    }
    if (row_groups_ == nullptr) {
      return;
    }
    const int64_t group = row_groups_[row];
    const int64_t* groups = column_groups_ + begin;
    const T of_same = excludes_ ? T(0) : T(1);
    for (int64_t c = 0; c < count; ++c) {
      positive[c] = groups[c] == group ? of_same : positive[c];
    }
  }

 private:
  // The coordinates in their own type.
  template <typename U>
  struct Coordinates {
    const U* rows = nullptr;
    std::vector<U> columns;
    int64_t stride = 0;
    int64_t dimensions = 0;
    PositiveRule<T, U> rule{};

    void prepare(const ContrastiveArguments& arguments) {
      const double sigma = arguments.options.sigma;
      rows = static_cast<const U*>(arguments.anchor_coordinates.const_data_ptr());
      stride = arguments.columns;
      dimensions = arguments.dimensions;
      rule.gaussian = sigma > 0;
      rule.factor = rule.gaussian ? gaussian_factor<T>(sigma) : T(0);
      rule.threshold = squared_threshold(static_cast<U>(arguments.options.radius));
      const U* source = static_cast<const U*>(arguments.contrast_coordinates.const_data_ptr());
      columns.resize(dimensions * stride);
      for (int64_t c = 0; c < stride; ++c) {
        for (int64_t d = 0; d < dimensions; ++d) {
          columns[d * stride + c] = source[c * dimensions + d];
        }
      }
    }

    void fill(int64_t row, int64_t begin, int64_t count, T* positive) const {
      positive_weights({rows + row * dimensions, columns.data() + begin, stride, dimensions}, rule,
                       count, positive);
    }
  };

  bool excludes_;
  Coordinates<float> float_;
  Coordinates<double> double_;
  const int64_t* row_groups_ = nullptr;
  const int64_t* column_groups_ = nullptr;
};

}  // namespace univa::cpu

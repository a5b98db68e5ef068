// The positive weights k_ij of a row of pairs on the CPU. The self pair is the caller's.
#pragma once

#include <limits>
#include <vector>

#include "arguments.h"
#include "cpu/matrix.h"
#include "cpu/vector_exp.h"
#include "univa/positives.h"

namespace univa::cpu {

class Positives {
 public:
  explicit Positives(const ContrastiveArguments& arguments) : arguments_(arguments) {
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

  // positive[c] = k of row and column begin + c, for count <= kMaxTile
  // columns. Where the pair is none, that is 0 and dots[c] becomes -inf, which no sum takes up.
  template <typename T>
  void fill(int64_t row, int64_t begin, int64_t count, T* positive, T* dots) const {
    if (double_.rows != nullptr) {
      double_.fill(arguments_, row, begin, count, positive);
    } else {
      float_.fill(arguments_, row, begin, count, positive);
    }
    if (row_groups_ == nullptr) {
      return;
    }
    const int64_t group = row_groups_[row];
    const int64_t* groups = column_groups_ + begin;
    if (arguments_.options.exclude_groups) {
      constexpr T kNone = -std::numeric_limits<T>::infinity();
      for (int64_t c = 0; c < count; ++c) {
        positive[c] = groups[c] == group ? T(0) : positive[c];
        dots[c] = groups[c] == group ? kNone : dots[c];
      }
    } else {
      for (int64_t c = 0; c < count; ++c) {
        positive[c] = groups[c] == group ? T(1) : positive[c];
      }
    }
  }

 private:
  // The coordinates in their own type; the columns' ones as [p, M], so that loops run along them.
  // A gaussian's exponential is in T, that of the logits.
  template <typename U>
  struct Coordinates {
    const U* rows = nullptr;
    std::vector<U> columns;
    U threshold = 0;

    void prepare(const ContrastiveArguments& arguments) {
      rows = static_cast<const U*>(arguments.anchor_coordinates.const_data_ptr());
      const U* source = static_cast<const U*>(arguments.contrast_coordinates.const_data_ptr());
      threshold = squared_threshold(static_cast<U>(arguments.options.radius));
      columns.resize(arguments.dimensions * arguments.columns);
      for (int64_t c = 0; c < arguments.columns; ++c) {
        for (int64_t d = 0; d < arguments.dimensions; ++d) {
          columns[d * arguments.columns + c] = source[c * arguments.dimensions + d];
        }
      }
    }

    template <typename T>
    void fill(const ContrastiveArguments& arguments, int64_t row, int64_t begin, int64_t count,
              T* positive) const {
      U squared[kMaxTile];
      std::fill(squared, squared + count, U(0));
      for (int64_t d = 0; d < arguments.dimensions; ++d) {
        const U coordinate = rows[row * arguments.dimensions + d];
        const U* others = columns.data() + d * arguments.columns + begin;
        for (int64_t c = 0; c < count; ++c) {
          squared[c] = add_squared_difference(squared[c], coordinate, others[c]);
        }
      }
      if (arguments.options.sigma > 0) {
        const T factor = gaussian_factor<T>(arguments.options.sigma);
        for (int64_t c = 0; c < count; ++c) {
          positive[c] = static_cast<T>(squared[c]) * factor;
        }
        exp_in_place(positive, count);
        return;
      }
      for (int64_t c = 0; c < count; ++c) {
        positive[c] = squared[c] < threshold ? T(1) : T(0);
      }
    }
  };

  const ContrastiveArguments& arguments_;
  Coordinates<float> float_;
  Coordinates<double> double_;
  const int64_t* row_groups_ = nullptr;
  const int64_t* column_groups_ = nullptr;
};

}  // namespace univa::cpu

// Which pairs are positive: |u_i - v_j|_2 < radius (strict), or the same group.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>

#include "univa/macros.h"
#include "univa/rounding.h"

namespace univa {

// sum + (a - b)^2. A fused multiply-add would move pairs that lie on the radius.
template <typename T>
UNIVA_HD T add_squared_difference(T sum, T a, T b) {
  const T difference = rounded_sum(a, -b);
  return rounded_sum(sum, rounded_product(difference, difference));
}

// The least x with sqrt(x) >= radius, so that `squared < threshold` is exactly
// `sqrt(squared) < radius`: the correctly rounded square root is monotone.
template <typename T>
inline T squared_threshold(T radius) {
  const T infinity = std::numeric_limits<T>::infinity();
  if (!(radius > T(0))) {
    return T(0);  // no squared distance lies below
  }
  T threshold = radius * radius;
  while (threshold > T(0) && std::sqrt(std::nextafter(threshold, T(0))) >= radius) {
    threshold = std::nextafter(threshold, T(0));
  }
  while (threshold < infinity && std::sqrt(threshold) < radius) {
    threshold = std::nextafter(threshold, infinity);
  }
  return threshold;
}

// Column of the self pair of row i, or -1 where the contrast set holds no copy of it.
UNIVA_HD int64_t self_column(int64_t row, bool has_self, int64_t self_offset, int64_t columns) {
  const int64_t column = row + self_offset;
  return has_self && column >= 0 && column < columns ? column : -1;
}

}  // namespace univa

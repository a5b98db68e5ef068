// How positive a pair is: 1 where |u_i - v_j|_2 < radius (strict), else 0; or, gaussian,
// exp(-|u_i - v_j|^2 / (2 sigma^2)). Distances are in the coordinates' type, exponentials in the
// accumulate type.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>

#include "univa/macros.h"
#include "univa/rounding.h"

namespace univa {

// A row whose n_i is below this has no positives. Far out in the tail of gaussian positives k_ij are
// subnormal and mostly rounding; from here on what they add to n_i is too little to matter.
template <typename T>
UNIVA_HD constexpr T least_count() {
  return sizeof(T) == sizeof(double) ? static_cast<T>(0x1p-960) : static_cast<T>(0x1p-100);
}

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

// -1 / (2 sigma^2), kept off 0 and -inf: its product with a squared distance of inf or 0 is no NaN.
template <typename T>
inline T gaussian_factor(double sigma) {
  const double factor = -0.5 / (sigma * sigma);
  const double least = -static_cast<double>(std::numeric_limits<T>::max());
  const double most = -static_cast<double>(std::numeric_limits<T>::min());
  return static_cast<T>(factor < least ? least : factor > most ? most : factor);
}

// Column of the self pair of row i, or -1 where the contrast set holds no copy of it.
UNIVA_HD int64_t self_column(int64_t row, bool has_self, int64_t self_offset, int64_t columns) {
  const int64_t column = row + self_offset;
  return has_self && column >= 0 && column < columns ? column : -1;
}

}  // namespace univa

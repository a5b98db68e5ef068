// Which pairs are positive: |u_i - v_j|_2 < radius (strict), or the same group.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>

#include "univa/macros.h"

namespace univa {

// (a - b)^2 and sums without fused multiply-add: contraction would round differently from plain
// PyTorch and move pairs that lie on the radius. The host build says -ffp-contract=off.
UNIVA_HD float add_squared_difference(float sum, float a, float b) {
#if defined(__CUDA_ARCH__)
  const float difference = __fsub_rn(a, b);
  return __fadd_rn(sum, __fmul_rn(difference, difference));
#else
  const float difference = a - b;
  return sum + difference * difference;
#endif
}

UNIVA_HD double add_squared_difference(double sum, double a, double b) {
#if defined(__CUDA_ARCH__)
  const double difference = __dsub_rn(a, b);
  return __dadd_rn(sum, __dmul_rn(difference, difference));
#else
  const double difference = a - b;
  return sum + difference * difference;
#endif
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

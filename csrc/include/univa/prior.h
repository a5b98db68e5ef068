// The emotion-correlation prior, from d_jl, the distance of two labels' predictions:
//
//   quadratic: d_jl = sum_i (y_ij - y_il)^2        norm: d_jl = sqrt(sum_i (y_ij - y_il)^2)
//   eta = (1/N) sum_jl M_jl d_jl                    d eta / d M_jl = d_jl / N
//   d eta / d y_ij = (1/N) sum_l (M_jl + M_lj) slope_jl (y_ij - y_il)
#pragma once

#include <cmath>

#include "univa/macros.h"

namespace univa {

template <typename T>
UNIVA_HD T prior_distance(T squared, bool norm) {
  return norm ? std::sqrt(squared) : squared;
}

// 2, or 1 / d_jl, which is 0 where the norm is 0.
template <typename T>
UNIVA_HD T prior_slope(T squared, bool norm) {
  return norm ? (squared == T(0) ? T(0) : T(1) / std::sqrt(squared)) : T(2);
}

// 1 / N. An empty batch has a prior of 0.
template <typename T>
UNIVA_HD T prior_scale(long long rows) {
  return rows == 0 ? T(0) : T(1) / static_cast<T>(rows);
}

}  // namespace univa

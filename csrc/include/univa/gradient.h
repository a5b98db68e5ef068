// The gradient of one row's loss with respect to its logits.
#pragma once

#include <cmath>
#include <limits>

#include "univa/macros.h"

namespace univa {

// What the backward needs to know of row i; upstream gradient g_i folded in.
template <typename T>
struct RowGradient {
  T log_z;
  T scale;  // g_i
  T count;  // n_i

  // Rows without positives have a constant loss: with log_z = +inf every p_ij is 0.
  static UNIVA_HD RowGradient make(T upstream, T log_z, T count) {
    if (count == T(0)) {
      return {std::numeric_limits<T>::infinity(), T(0), T(1)};
    }
    return {log_z, upstream, count};
  }

  // g_i dl_i/ds_ij = g_i (p_ij - k_ij / n_i), p_ij = exp(z_ij - log Z_i). z: see reduction.h;
  // weight: k_ij. Divided, not multiplied by an inverse: where one pair is all, the
  // two shares are both 1 and cancel.
  UNIVA_HD T coefficient(T z, T weight) const {
    return scale * (std::exp(z - log_z) - weight / count);
  }
};

}  // namespace univa

// Rows scaled to unit L2 norm, x / max(|x|, 1e-12), as torch.nn.functional.normalize does.
#pragma once

#include "univa/macros.h"

namespace univa {

template <typename T>
UNIVA_HD T unit_divisor(T length) {
  return length < T(1e-12) ? T(1e-12) : length;  // NaN stays NaN
}

// One element of the gradient of x from that of the scaled row: the part along the row goes, unless
// the divisor was the constant. `along`: the inner product of gradient and scaled row.
template <typename T>
UNIVA_HD T through_unit(T gradient, T unit, T along, T length) {
  return (length < T(1e-12) ? gradient : gradient - along * unit) / unit_divisor(length);
}

}  // namespace univa

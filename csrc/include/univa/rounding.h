// Arithmetic that rounds after each step, with no fused multiply-add: where forward and backward,
// or we and plain PyTorch, must come to the same bits. The host build says -ffp-contract=off.
#pragma once

#include "univa/macros.h"

namespace univa {

#if defined(__CUDA_ARCH__)
UNIVA_HD float rounded_sum(float a, float b) { return __fadd_rn(a, b); }
UNIVA_HD double rounded_sum(double a, double b) { return __dadd_rn(a, b); }
UNIVA_HD float rounded_product(float a, float b) { return __fmul_rn(a, b); }
UNIVA_HD double rounded_product(double a, double b) { return __dmul_rn(a, b); }
#else
template <typename T>
UNIVA_HD T rounded_sum(T a, T b) {
  return a + b;
}
template <typename T>
UNIVA_HD T rounded_product(T a, T b) {
  return a * b;
}
#endif

}  // namespace univa

#include "cpu/vector_exp.h"

namespace univa::cpu {

UNIVA_CLONES void scaled_exp_in_place(float* values, int64_t count, float scale) {
#pragma omp simd
  for (int64_t c = 0; c < count; ++c) {
    values[c] = vector_exp(values[c]) * scale;
  }
}

void scaled_exp_in_place(double* values, int64_t count, double scale) {
  for (int64_t c = 0; c < count; ++c) {
    values[c] = vector_exp(values[c]) * scale;
  }
}

}  // namespace univa::cpu

#include "cpu/vector_exp.h"

namespace univa::cpu {

UNIVA_CLONES void exp_in_place(float* values, int64_t count) {
#pragma omp simd
  for (int64_t c = 0; c < count; ++c) {
    values[c] = vector_exp(values[c]);
  }
}

void exp_in_place(double* values, int64_t count) {
  for (int64_t c = 0; c < count; ++c) {
    values[c] = vector_exp(values[c]);
  }
}

}  // namespace univa::cpu

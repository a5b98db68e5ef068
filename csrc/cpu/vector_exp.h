// exp for loops that the compiler vectorises: no branch, no call, no table.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "cpu/clones.h"

namespace univa::cpu {

// Within 1.5 ulp for x <= 88; 0 for x <= -104 and -inf; NaN for NaN. Larger x do not occur: the
// arguments are logits less their maximum or their log-sum-exp.
//
// Cody and Waite: x = n ln 2 + r, exp x = 2^n exp r, the polynomial being Taylor's to degree 7 on
// |r| <= ln 2 / 2 (next term below 2^-27).
UNIVA_INLINE float vector_exp(float x) {
  x = x < -104.0f ? -104.0f : x;  // false for NaN, which goes through the polynomial
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  const float shifted = x * 1.44269504088896341f + kRound;
  const float n = shifted - kRound;
  const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;  // ln 2 in two parts
  float p = 1.0f / 5040.0f;
  p = p * r + 1.0f / 720.0f;
  p = p * r + 1.0f / 120.0f;
  p = p * r + 1.0f / 24.0f;
  p = p * r + 1.0f / 6.0f;
  p = p * r + 0.5f;
  p = p * (r * r) + r;
  p = p + 1.0f;
  // 2^n in two factors, because n reaches -150 and the exponent field does not.
  int32_t bits;
  std::memcpy(&bits, &shifted, sizeof bits);
  const int32_t exponent = bits - 0x4B400000;  // the bit pattern of kRound
  const int32_t half = exponent >> 1;
  const int32_t low = (half + 127) * (int32_t{1} << 23);
  const int32_t high = (exponent - half + 127) * (int32_t{1} << 23);
  float a;
  float b;
  std::memcpy(&a, &low, sizeof a);
  std::memcpy(&b, &high, sizeof b);
  return p * a * b;
}

// float64 serves gradient checks and truth, not speed.
UNIVA_INLINE double vector_exp(double x) { return std::exp(x); }

// values[c] = exp(values[c]), no value above 88.
void exp_in_place(float* values, int64_t count);
void exp_in_place(double* values, int64_t count);

}  // namespace univa::cpu

// exp for loops that the compiler vectorises: no branch, no call, no table.
#pragma once

#include <cstdint>
#include <cstring>

#include "cpu/clones.h"

namespace univa::cpu {

// Within 1.5 ulp for x <= 88; 0 for x <= -104 and -inf; NaN for NaN. For larger x
// any value: arguments are logits less their maximum or their log-sum-exp, so that only pairs left
// out could have them, or rows that are infinite anyway.
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
  const uint32_t low = static_cast<uint32_t>(half + 127) << 23;  // any bits will do for a NaN
  const uint32_t high = static_cast<uint32_t>(exponent - half + 127) << 23;
  float a;
  float b;
  std::memcpy(&a, &low, sizeof a);
  std::memcpy(&b, &high, sizeof b);
  return p * a * b;
}

// The same in double: within 1.5 ulp for x <= 709; 0 for x <= -746 and -inf. Taylor to degree 13
// (next term below 2^-57).
UNIVA_INLINE double vector_exp(double x) {
  x = x < -746.0 ? -746.0 : x;
  constexpr double kRound = 6755399441055744.0;  // 1.5 * 2^52
  constexpr uint64_t kRoundBits = 0x4338000000000000;
  const double n = (x * 1.44269504088896340736 + kRound) - kRound;
  const double r = (x - n * 6.93147180369123816490e-1) - n * 1.90821492927058770002e-10;
  double p = 1.0 / 6227020800.0;
  p = p * r + 1.0 / 479001600.0;
  p = p * r + 1.0 / 39916800.0;
  p = p * r + 1.0 / 3628800.0;
  p = p * r + 1.0 / 362880.0;
  p = p * r + 1.0 / 40320.0;
  p = p * r + 1.0 / 5040.0;
  p = p * r + 1.0 / 720.0;
  p = p * r + 1.0 / 120.0;
  p = p * r + 1.0 / 24.0;
  p = p * r + 1.0 / 6.0;
  p = p * r + 0.5;
  p = p * (r * r) + r;
  p = p + 1.0;
  const double half = n * 0.5 + kRound;
  const double rest = (n - (half - kRound)) + kRound;
  uint64_t low;
  uint64_t high;
  std::memcpy(&low, &half, sizeof low);
  std::memcpy(&high, &rest, sizeof high);
  low = (low - kRoundBits + 1023) << 52;
  high = (high - kRoundBits + 1023) << 52;
  double a;
  double b;
  std::memcpy(&a, &low, sizeof a);
  std::memcpy(&b, &high, sizeof b);
  return p * a * b;
}

}  // namespace univa::cpu

// The shim's float16: conversions that round to nearest even, no arithmetic.
#pragma once

#include <cmath>
#include <cstdint>

struct __half {
  uint16_t bits;

  __half() = default;
  explicit __half(float value) {
    const uint16_t sign = std::signbit(value) ? 0x8000 : 0;
    const float magnitude = std::fabs(value);
    if (!(magnitude < 65520.0f)) {
      bits = sign | (std::isnan(value) ? 0x7fff : 0x7c00);
      return;
    }
    int exponent = 0;
    std::frexp(magnitude, &exponent);  // magnitude < 2^exponent
    exponent = exponent < -13 ? -13 : exponent;
    const int steps = static_cast<int>(std::nearbyint(std::ldexp(magnitude, 11 - exponent)));
    // A carry out of the mantissa goes on into the exponent, as it should.
    const int above = steps < 1024 ? 0 : ((exponent + 14) << 10) - 1024;
    bits = sign | static_cast<uint16_t>(steps + above);
  }
  operator float() const {
    const int exponent = bits >> 10 & 31;
    const int mantissa = bits & 1023;
    const float magnitude = exponent == 31 ? (mantissa ? NAN : INFINITY)
                            : exponent == 0 ? std::ldexp(static_cast<float>(mantissa), -24)
                                            : std::ldexp(1024.0f + mantissa, exponent - 25);
    return bits & 0x8000 ? -magnitude : magnitude;
  }
};

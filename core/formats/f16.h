// IEEE half precision, as files store it.
#pragma once

#include <cmath>
#include <cstdint>

#include "core/formats/scalar.h"

namespace tokenferry {

struct F16 {
  uint16_t bits;
};

// Exact: every F16 is an F32.
inline float ToFloat(F16 x) {
  const uint32_t sign = (x.bits & 0x8000u) << 16, exponent = (x.bits >> 10) & 0x1Fu, mantissa = x.bits & 0x3FFu;
  if (exponent == 0) {  // zero and subnormal numbers: mantissa * 2^-24
    const float magnitude = std::ldexp(static_cast<float>(mantissa), -24);
    return sign == 0 ? magnitude : -magnitude;
  }
  if (exponent == 0x1F) return internal::FloatFromBits(sign | 0x7F800000u | (mantissa << 13));
  return internal::FloatFromBits(sign | ((exponent + 112) << 23) | (mantissa << 13));
}

}  // namespace tokenferry

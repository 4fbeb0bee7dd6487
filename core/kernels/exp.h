// exp in f32 as a fixed sequence of operations, so that every instruction set gives the same bits. This scalar is the
// meaning, on the host and on GPUs; core/kernels/exp-inl.h is its Highway twin.
//
// exp(x) = 2^n * exp(r), n = round(x / ln 2), r = x - n * ln 2 (Cody-Waite: ln 2 in two parts), |r| <= 0.3466, and
// exp(r) by its Taylor series to r^7. Truncation: r^8 / 8! <= 5.2e-9, that is < 0.09 ulp; within 2 ulp of the exact
// value (1.04 seen) in all, subnormal results included (tests/core/kernels/exp_dot_test.cc).
#pragma once

#include <cmath>
#include <cstdint>

#include "core/formats/scalar.h"

namespace tokenferry {

namespace exp_internal {
// Adding 1.5 * 2^23 rounds to an integer (ties to even) and leaves it in the low bits.
inline constexpr float kRoundShift = 12582912.0f;
inline constexpr float kLog2e = 1.44269504088896340736f;
inline constexpr float kLn2High = 0x1.62e400p-1f;  // 15 leading bits of ln 2: n * kLn2High is exact
inline constexpr float kLn2Low = 0x1.7f7d1cp-20f;  // ln 2 - kLn2High
inline constexpr float kOverflow = 89.0f;          // above: infinity
inline constexpr float kUnderflow = -104.0f;       // below: 0
// 1 / k!, k = 7 .. 2; a function, since device code reads no arrays of the host.
inline constexpr int kNumTaylor = 6;
TF_HOST_DEVICE constexpr float Taylor(int i) {
  constexpr float kCoefficients[kNumTaylor] = {1.0f / 5040, 1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f};
  return kCoefficients[i];
}
}  // namespace exp_internal

// exp(+inf) = +inf, exp(-inf) = +0, exp(NaN) = the quiet NaN 0x7FC00000.
TF_HOST_DEVICE inline float ExpF32(float x) {
  using namespace exp_internal;
  using internal::BitsFromFloat, internal::FloatFromBits;
  if (x > kOverflow) return FloatFromBits(0x7F800000u);
  if (x < kUnderflow) return 0.0f;
  if (x != x) return FloatFromBits(0x7FC00000u);
  const float shifted = std::fma(x, kLog2e, kRoundShift);
  const float n = shifted - kRoundShift;
  const float r = std::fma(-n, kLn2Low, std::fma(-n, kLn2High, x));
  float q = Taylor(0);
  for (int i = 1; i < kNumTaylor; ++i) q = std::fma(q, r, Taylor(i));
  const float p = 1.0f + std::fma(r * r, q, r);
  // 2^n in two factors, both normal; only the second product can round (subnormal results) or overflow.
  const int32_t exponent = static_cast<int32_t>(BitsFromFloat(shifted) - BitsFromFloat(kRoundShift));
  const int32_t half = exponent >> 1;
  const auto pow2 = [](int32_t e) { return FloatFromBits(static_cast<uint32_t>(e + 127) << 23); };
  return p * pow2(half) * pow2(exponent - half);
}

// 1 / (1 + exp(-x)), each of the three rounded.
TF_HOST_DEVICE inline float Sigmoid(float x) { return 1.0f / (1.0f + ExpF32(-x)); }

// x / (1 + exp(-x)), each of the three rounded. Where exp(-x) overflows (x < -88.7, true value above -3e-37) and at
// -inf the result is -0; silu(+inf) = +inf; NaN stays NaN.
TF_HOST_DEVICE inline float Silu(float x) {
  const float denominator = 1.0f + ExpF32(-x);
  return std::isinf(denominator) ? -0.0f : x / denominator;
}

}  // namespace tokenferry

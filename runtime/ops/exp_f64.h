// exp in double for x <= 0 as a fixed sequence of operations, so that the host, its vector instructions and GPUs give
// the same bits. This scalar is the meaning; runtime/engine/sampler_kernels.cc has its Highway twin.
//
// exp(x) = 2^n * exp(r), n = round(x / ln 2), r = x - n * ln 2 (Cody-Waite: ln 2 in two parts), |r| <= 0.3466, and
// exp(r) by its Taylor series to r^12. Truncation: r^13 / 13! <= 1.7e-16. No product is contracted with a sum: vector
// instruction sets without fused multiply-adds have to agree.
#pragma once

#include <cstdint>

#include "core/formats/scalar.h"

namespace tokenferry {

namespace exp_f64_internal {
inline constexpr double kRoundShift = 0x1.8p52;  // adding it rounds to an integer and leaves that in the low bits
inline constexpr double kLog2e = 1.44269504088896340736;
inline constexpr double kLn2High = 0x1.62e42feep-1;       // 32 leading bits of ln 2: n * kLn2High is exact
inline constexpr double kLn2Low = 0x1.a39ef35793c76p-33;  // ln 2 - kLn2High
inline constexpr double kUnderflow = -708;                // below: 0; 2^n is a normal number above
// 1 / k!, k = 12 .. 0; a function, since device code reads no arrays of the host.
inline constexpr int kNumTaylor = 13;
TF_HOST_DEVICE constexpr double Taylor(int i) {
  constexpr double kCoefficients[kNumTaylor] = {
      1.0 / 479001600, 1.0 / 39916800, 1.0 / 3628800, 1.0 / 362880, 1.0 / 40320, 1.0 / 5040, 1.0 / 720,
      1.0 / 120,       1.0 / 24,       1.0 / 6,       0.5,          1.0,         1.0};
  return kCoefficients[i];
}
}  // namespace exp_f64_internal

// Within 4 ulp of the exact value; 0 below e^-708.
TF_HOST_DEVICE inline double ExpNotPositive(double x) {
  using namespace exp_f64_internal;
  if (x < kUnderflow) return 0;
  const double shifted = x * kLog2e + kRoundShift;
  const double n = shifted - kRoundShift;
  const double r = (x - n * kLn2High) - n * kLn2Low;
  double q = Taylor(0);
  for (int i = 1; i < kNumTaylor; ++i) q = q * r + Taylor(i);
  const int64_t exponent = __builtin_bit_cast(int64_t, shifted) - __builtin_bit_cast(int64_t, kRoundShift);
  return q * __builtin_bit_cast(double, static_cast<uint64_t>(exponent + 1023) << 52);
}

}  // namespace tokenferry

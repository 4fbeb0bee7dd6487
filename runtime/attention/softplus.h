// ln(1 + exp(x)) in f32 by basic operations alone, so that hosts and GPUs give the same bits.
#pragma once

#include <cmath>

#include "core/kernels/exp.h"

namespace tokenferry {

// ln(1 + y), y >= 0, in double: 1 + y = 2^n * m, m in [sqrt(1/2), sqrt(2)), and ln m = 2 atanh(s), s = (m - 1) / (m +
// 1), |s| < 0.172. Truncation behind s^17: below 2 * 0.172^19 / 19 < 4e-16.
TF_HOST_DEVICE inline double LogOnePlus(double y) {
  constexpr double kLn2 = 0.69314718055994530942, kRootHalf = 0.70710678118654752440;
  int exponent = 0;
  double m = std::frexp(1 + y, &exponent);  // exact
  if (m < kRootHalf) m *= 2, --exponent;
  const double s = (m - 1) / (m + 1), square = s * s;
  double sum = 0;
  for (int odd = 17; odd >= 1; odd -= 2) sum = sum * square + 1.0 / odd;
  return exponent * kLn2 + 2 * s * sum;
}

// x above 20, where they are the same number.
TF_HOST_DEVICE inline float Softplus(float x) { return x > 20 ? x : static_cast<float>(LogOnePlus(ExpF32(x))); }

}  // namespace tokenferry

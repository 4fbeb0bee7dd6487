// The dot product in the order that core/kernels/matmul.h defines; core/kernels/dot-inl.h is its Highway twin.
#pragma once

#include <cmath>
#include <cstdint>

namespace tokenferry {

inline constexpr int kNumLanes = 16;

// Sums 16 lanes as the fixed tree: s[l] + s[l + 8], then + 4, + 2, + 1. Overwrites `lanes`.
inline float SumLanes(float* lanes) {
  for (int width = kNumLanes / 2; width > 0; width /= 2) {
    for (int l = 0; l < width; ++l) lanes[l] = lanes[l] + lanes[l + width];
  }
  return lanes[0];
}

inline float DotF32(const float* a, const float* b, int64_t size) {
  float lanes[kNumLanes] = {};
  for (int64_t i = 0; i < size; ++i) lanes[i % kNumLanes] = std::fma(a[i], b[i], lanes[i % kNumLanes]);
  return SumLanes(lanes);
}

}  // namespace tokenferry

// Sums in the lane order of core/kernels/matmul.h: half a warp is its 16 lanes.
#pragma once

#include <cstdint>

#include "core/device/cuda_launch.cuh"

namespace tokenferry {

constexpr int kHalfWarp = 16;

// The fixed tree over the lanes of each half warp; the sum is in lane 0 of the half. All 32 threads of the warp take
// part.
__device__ inline float SumHalfWarp(float lane) {
#pragma unroll
  for (int width = kHalfWarp / 2; width > 0; width /= 2) {
    lane = __fadd_rn(lane, __shfl_down_sync(kWholeWarp, lane, width, kHalfWarp));
  }
  return lane;
}

// Lane `lane`'s chain of a dot product: value_a(i) * value_b(i) for i = lane, lane + 16, .. below `size`, kUnroll of
// them read ahead.
template <int kUnroll = 4, class A, class B>
__device__ inline float LaneChain(int lane, int64_t size, const A& value_a, const B& value_b) {
  float sum = 0.0f;
#pragma unroll(kUnroll)
  for (int64_t i = lane; i < size; i += kHalfWarp) sum = __fmaf_rn(value_a(i), value_b(i), sum);
  return sum;
}

}  // namespace tokenferry

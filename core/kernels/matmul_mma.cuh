// The product of core/kernels/matmul.h in Compute::kBF16 on tensor cores: mma.sync.m16n8k16, bf16 inputs, f32 sums.
//
// A block of four or eight warps computes a tile of kTileOuts outputs by kTokens rows: weights are the M side of the
// instruction and rows the N side, so that one design serves one row and thousands. K passes in steps of 64 from 0 to
// its end, in one chain of instructions per output element, whatever the tile: a row's bits depend on the row, the
// weights and K. Only kTokens differs between a small and a large batch, and it decides no bit; nor does it that a tile
// is shared by the matrices gate and up, whose product silu(gate) * up then leaves the block instead of their sums.
//
// Within a step thread q of a quad holds the inputs 16 q .. 16 q + 15 of its rows, four of them per instruction: an
// order of the sum that lets fragments be read 16 bytes at a time, from bf16 and from FP8 alike.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp8.h>

#include "core/kernels/exp.h"
#include "core/kernels/matmul_mma_copy.cuh"
#include "core/kernels/mma.cuh"

namespace tokenferry::mma {

// The two FP8 values in the lower half of `packed` as f16, exact.
__device__ inline __half2 HalvesOfF8(uint32_t packed) {
#if __CUDA_ARCH__ >= 890
  return __half2(__nv_cvt_fp8x2_to_halfraw2(static_cast<__nv_fp8x2_storage_t>(packed & 0xFFFFu), __NV_E4M3));
#else
  // There is no instruction for it, and CUDA's own function has a loop. In the places of f16 an exponent and mantissa
  // are worth 2^-8 of the value. The code of NaN is the largest, and alone carries into the next bit.
  const uint32_t spread = __byte_perm(packed, 0, 0x1404), magnitude = spread >> 1 & 0x3F803F80u;
  const uint32_t nan = (magnitude + 0x00800080u) & 0x40004000u;
  const uint32_t bits = magnitude | (spread & 0x80008000u) | nan | (nan - (nan >> 5));
  return __hmul2(*reinterpret_cast<const __half2*>(&bits), __float2half2_rn(256.0f));
#endif
}

// Four FP8 values times their scale, each product rounded to f32 and then to bf16.
__device__ inline void WidenF8(uint32_t packed, float scale, uint32_t& low, uint32_t& high) {
  const __half2 a = HalvesOfF8(packed), b = HalvesOfF8(packed >> 16);
  const __nv_bfloat162 x = __floats2bfloat162_rn(__fmul_rn(__low2float(a), scale), __fmul_rn(__high2float(a), scale));
  const __nv_bfloat162 y = __floats2bfloat162_rn(__fmul_rn(__low2float(b), scale), __fmul_rn(__high2float(b), scale));
  low = *reinterpret_cast<const uint32_t*>(&x);
  high = *reinterpret_cast<const uint32_t*>(&y);
}

// The scales of a warp's outputs, 16 at a time.
template <int kTilesM>
struct Scales {
  const float* row[kTilesM];  // null beyond the last output
  int steps_per_block, steps_left = 0;
  int64_t block = -1;
  float value[kTilesM] = {};

  __device__ Scales(const Problem& p, const Work& work, int first_out)
      : steps_per_block(work.w.format.block_cols / kStepInputs) {
#pragma unroll
    for (int m = 0; m < kTilesM; ++m) {
      const int64_t o = work.out + first_out + 16 * m;
      row[m] = o < p.num_outs()
                   ? static_cast<const float*>(work.w.scales) +
                         static_cast<uint32_t>(work.w.row_offset + o) / work.w.format.block_rows * work.w.scale_stride
                   : nullptr;
    }
  }
  // Of the next step.
  __device__ void Advance() {
    if (steps_left-- > 0) return;
    steps_left = steps_per_block - 1;
    ++block;
#pragma unroll
    for (int m = 0; m < kTilesM; ++m) value[m] = row[m] == nullptr ? 0.0f : __ldg(row[m] + block);
  }
};

template <int kTokens, LoadKind kLoad>
__device__ inline void MultiplyStage(const char* weights, const char* rows,
                                     const float (&scale)[Tile<kTokens, kLoad>::kTilesM],
                                     float (&sums)[Tile<kTokens, kLoad>::kTilesM][Tile<kTokens, kLoad>::kTilesN][4]) {
  using T = Tile<kTokens, kLoad>;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, group = lane / 4, quad = lane % 4;
  const int first_out = warp / T::kWarpsN * T::kWarpOuts, first_row = warp % T::kWarpsN * T::kWarpTokens;
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    uint4 b[T::kTilesN];
#pragma unroll
    for (int n = 0; n < T::kTilesN; ++n) {
      b[n] = *reinterpret_cast<const uint4*>(rows + SwizzledBF16(first_row + 8 * n + group, 2 * quad + h));
    }
#pragma unroll
    for (int m = 0; m < T::kTilesM; ++m) {
      uint4 a[2];
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        if constexpr (kLoad == LoadKind::kF8) {
          const auto v =
              *reinterpret_cast<const uint2*>(weights + PlainF8(first_out + 16 * m + 8 * half + group, quad) + 8 * h);
          WidenF8(v.x, scale[m], a[half].x, a[half].y);
          WidenF8(v.y, scale[m], a[half].z, a[half].w);
        } else {
          a[half] = *reinterpret_cast<const uint4*>(weights +
                                                    SwizzledBF16(first_out + 16 * m + 8 * half + group, 2 * quad + h));
        }
      }
      const uint32_t first[4] = {a[0].x, a[1].x, a[0].y, a[1].y}, second[4] = {a[0].z, a[1].z, a[0].w, a[1].w};
#pragma unroll
      for (int n = 0; n < T::kTilesN; ++n) Mma(sums[m][n], first, {b[n].x, b[n].y});
#pragma unroll
      for (int n = 0; n < T::kTilesN; ++n) Mma(sums[m][n], second, {b[n].z, b[n].w});
    }
  }
}

__device__ inline void StoreFour(const Problem& p, int64_t row, int64_t o, float4 v) {
  float value[4] = {v.x, v.y, v.z, v.w};
  const int64_t at = row * p.y_stride + o;
  const bool whole = o + 4 <= p.num_outs() && at % 4 == 0;
  if (p.y_dtype == DType::kF32) {
    auto* y = static_cast<float*>(p.y) + at;
    if (whole && reinterpret_cast<uintptr_t>(p.y) % 16 == 0) {
      if (p.accumulate == Accumulate::kYes) {
        const float4 old = *reinterpret_cast<const float4*>(y);
        v = make_float4(__fadd_rn(old.x, v.x), __fadd_rn(old.y, v.y), __fadd_rn(old.z, v.z), __fadd_rn(old.w, v.w));
      }
      *reinterpret_cast<float4*>(y) = v;
      return;
    }
    for (int e = 0; e < 4 && o + e < p.num_outs(); ++e)
      y[e] = p.accumulate == Accumulate::kYes ? __fadd_rn(y[e], value[e]) : value[e];
  } else {
    auto* y = static_cast<BF16*>(p.y) + at;
    if (whole && reinterpret_cast<uintptr_t>(p.y) % 8 == 0) {
      *reinterpret_cast<uint2*>(y) = make_uint2(PackBF16(v.x, v.y), PackBF16(v.z, v.w));
      return;
    }
    for (int e = 0; e < 4 && o + e < p.num_outs(); ++e) y[e] = ToBF16(value[e]);
  }
}

// silu(gate) * up of two outputs.
__device__ inline void StoreGated(const Problem& p, int64_t row, int64_t o, float2 gate, float2 up) {
  const float first = __fmul_rn(Silu(gate.x), up.x), second = __fmul_rn(Silu(gate.y), up.y);
  BF16* const y = static_cast<BF16*>(p.y) + row * p.y_stride + o;
  if (o + 2 <= p.num_outs() && reinterpret_cast<uintptr_t>(y) % 4 == 0) {
    *reinterpret_cast<uint32_t*>(y) = PackBF16(first, second);
    return;
  }
  if (o < p.num_outs()) y[0] = ToBF16(first);
  if (o + 1 < p.num_outs()) y[1] = ToBF16(second);
}

// Sums pass through shared memory, so that a warp writes whole rows of the tile. Between them and what the next tile
// brings is RowCopier's barrier.
template <int kTokens, LoadKind kLoad, Form kForm>
__device__ inline void StoreTile(const Problem& p, const Work& work, float* shared,
                                 const float (&sums)[Tile<kTokens, kLoad>::kTilesM][Tile<kTokens, kLoad>::kTilesN][4]) {
  using T = Tile<kTokens, kLoad>;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, group = lane / 4, quad = lane % 4;
  const int first_out = warp / T::kWarpsN * T::kWarpOuts, first_row = warp % T::kWarpsN * T::kWarpTokens;
  __syncthreads();  // the last stage has been read
#pragma unroll
  for (int m = 0; m < T::kTilesM; ++m) {
#pragma unroll
    for (int n = 0; n < T::kTilesN; ++n) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int row = first_row + 8 * n + 2 * quad + e % 2, out = first_out + 16 * m + 8 * (e / 2) + group;
        shared[row * T::kOutStride + out] = sums[m][n][e];
      }
    }
  }
  __syncthreads();
  for (int t = warp; t < work.num_rows; t += T::kThreads / 32) {
    const float* const row = shared + t * T::kOutStride;
    if constexpr (kForm == Form::kGated) {
      const float2 gate = *reinterpret_cast<const float2*>(row + 2 * lane);
      const float2 up = *reinterpret_cast<const float2*>(row + kTileOuts / 2 + 2 * lane);
      StoreGated(p, work.row + t, work.out + 2 * lane, gate, up);
    } else {
      StoreFour(p, work.row + t, work.out + 4 * lane, *reinterpret_cast<const float4*>(row + 4 * lane));
    }
  }
}

template <int kTokens, LoadKind kLoad, Form kForm>
__global__ void __launch_bounds__(Tile<kTokens, kLoad>::kThreads, 1) Product(const __grid_constant__ Problem p) {
  using T = Tile<kTokens, kLoad>;
  using M = Matrices<kForm, T::kThreads>;
  static_assert(M::kOuts % T::kWarpOuts == 0 && M::kMatrixThreads % (32 * T::kWarpsN) == 0, "a warp has one matrix");
  extern __shared__ __align__(128) char shared[];
  auto* row_places = reinterpret_cast<uint32_t*>(shared + T::kBytes);               // [kTokens]
  int* tiles = reinterpret_cast<int*>(shared + T::kBytes + kTokens * sizeof(int));  // [num_groups + 1]
  CountRowTiles<kTokens>(p, tiles);
  const int num_out_tiles = static_cast<int>((p.num_outs() + M::kOuts - 1) / M::kOuts);
  const int64_t num_tiles = static_cast<int64_t>(tiles[p.num_groups]) * num_out_tiles;
  const int num_steps = static_cast<int>((p.num_inputs() + kStepInputs - 1) / kStepInputs);
  const int first_out = M::MyThread() / 32 / T::kWarpsN * T::kWarpOuts;
  for (int64_t index = blockIdx.x; index < num_tiles; index += gridDim.x) {
    const Work work = FindWork<kTokens, M>(p, tiles, index, num_out_tiles);
    WeightCopier<kLoad, M> weights(p, work);
    const RowCopier<kTokens, kLoad, T::kThreads> rows(p, work, row_places);
    float sums[T::kTilesM][T::kTilesN][4] = {};
    const auto load = [&](int step, int slot) {
      char* stage = shared + slot * T::kStageBytes;
      weights.Load(p, work, step, stage);
      rows.Load(p, step, stage + T::kWeightBytes);
    };
    constexpr int kFirstLoads = T::kStages - 1;
#pragma unroll(kLoad == LoadKind::kAny ? 1 : kFirstLoads)  // a conversion is long to compile
    for (int step = 0; step < kFirstLoads; ++step) {
      if (step < num_steps) load(step, step);
      CommitCopies();
    }
    Scales<T::kTilesM> scales(p, work, first_out);
    int slot = 0, next_slot = T::kStages - 1;
    for (int step = 0; step < num_steps; ++step) {
      if constexpr (kLoad == LoadKind::kF8) scales.Advance();
      WaitForCopies<T::kStages - 2>();
      __syncthreads();  // everybody's copies of this step have arrived, and the stage that comes next has been read
      if (step + T::kStages - 1 < num_steps) load(step + T::kStages - 1, next_slot);
      CommitCopies();
      const char* stage = shared + slot * T::kStageBytes;
      MultiplyStage<kTokens, kLoad>(stage, stage + T::kWeightBytes, scales.value, sums);
      next_slot = slot;
      slot = slot + 1 == T::kStages ? 0 : slot + 1;
    }
    WaitForCopies<0>();
    StoreTile<kTokens, kLoad, kForm>(p, work, reinterpret_cast<float*>(shared), sums);
  }
}

}  // namespace tokenferry::mma

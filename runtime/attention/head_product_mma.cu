// What latent attention multiplies for each head by itself, AbsorbQuery and ExpandValue, in bf16 on tensor cores.
#include <type_traits>

#include "core/device/cuda_launch.cuh"
#include "core/kernels/matmul_tile.cuh"
#include "runtime/attention/attention_mma.cuh"
#include "runtime/attention/attention_mma.h"

namespace tokenferry {
namespace {

using attention_mma::Place;

constexpr int kTokens = 64, kOuts = 128, kStep = 64, kThreads = 256;  // eight warps: four over the tokens
constexpr int kInputRowBytes = kStep * 2, kOutRowBytes = kOuts * 2, kOutPairs = kOuts / 2 / 16;

// out[t, h, n] = sum_k x[t, h, k] * weight(h, n, k). A head's part of the matrix begins at row first_row + h *
// head_rows.
struct HeadProduct {
  const float* x;
  int64_t x_token_stride, x_head_stride, num_tokens;
  int num_inputs, num_outs;
  WeightView w;
  int64_t first_row, head_rows;
  float* out;
  BF16* rounded = nullptr;  // instead of out, where it is not null
  int64_t out_token_stride, out_head_stride;
  int num_out_tiles, num_token_tiles;
};

// Codes take many registers to read: two at a time instead of eight.
template <class Format>
constexpr bool kIsCode = std::is_same_v<Format, PlanarWeights> || std::is_same_v<Format, BlockWeights>;

// Columns i .. i + 7 of row o, as far as there are such; zeros behind them.
template <class Format>
__device__ void LoadEight(const WeightView& w, int64_t o, int64_t i, float (&values)[8]) {
  if constexpr (std::is_same_v<Format, F8BlockWeights>) {
    if (w.format.block_cols % 8 == 0 && i + 8 <= w.cols) {  // one scale: two divisions instead of sixteen
      const float scale = F8BlockWeights::Scale(w, o, i);
      const F8E4M3* codes = static_cast<const F8E4M3*>(w.data) + o * w.cols + i;
#pragma unroll
      for (int e = 0; e < 8; ++e) values[e] = __fmul_rn(ToFloat(codes[e]), scale);
      return;
    }
  }
#pragma unroll
  for (int e = 0; e < 8; ++e) values[e] = i + e < w.cols ? Format::Value(w, o, i + e) : 0.0f;
}

__device__ uint4 PackEight(const float (&v)[8]) {
  return make_uint4(PackBF16(v[0], v[1]), PackBF16(v[2], v[3]), PackBF16(v[4], v[5]), PackBF16(v[6], v[7]));
}

// Weights of a step into shared memory as they are stored: rows that are inputs, or rows that are outputs.
template <class Format, bool kRowsAreInputs>
__device__ void LoadWeights(const HeadProduct& p, int64_t row0, int out0, int input0, char* to) {
  constexpr int kRows = kRowsAreInputs ? kStep : kOuts, kColumns = kRowsAreInputs ? kOuts : kStep;
  constexpr int kAtOnce = kIsCode<Format> ? 2 : 8, kPlaces = kColumns / kAtOnce;
  const int first = kRowsAreInputs ? input0 : out0, column = kRowsAreInputs ? out0 : input0;
  const int num_rows = (kRowsAreInputs ? p.num_inputs : p.num_outs) - first;
  for (int at = threadIdx.x; at < kRows * kPlaces; at += kThreads) {
    const int row = at / kPlaces, i = at % kPlaces * kAtOnce;
    char* const place = to + Place(2 * kColumns, row, i / 8);
    const int64_t o = row0 + first + row;
    if constexpr (kIsCode<Format>) {
      const auto value = [&](int64_t c) { return row < num_rows && c < p.w.cols ? Format::Value(p.w, o, c) : 0.0f; };
      *reinterpret_cast<uint32_t*>(place + i % 8 * 2) = PackBF16(value(column + i), value(column + i + 1));
    } else {
      float values[8] = {};
      if (row < num_rows) LoadEight<Format>(p.w, o, column + i, values);
      *reinterpret_cast<uint4*>(place) = PackEight(values);
    }
  }
}

// A block per (head, outputs, tokens), token tiles of the same weights side by side. Inputs pass from 0 to the end in
// one chain of instructions per output.
template <class Format, bool kRowsAreInputs>
__global__ void __launch_bounds__(kThreads, 2) HeadProductMma(HeadProduct p) {
  __shared__ __align__(128) char x[kTokens * kInputRowBytes], weights[kOuts * kInputRowBytes];
  const int lane = threadIdx.x % 32, warp_m = threadIdx.x / 32 % 4, warp_n = threadIdx.x / 128;
  const int64_t token0 = int64_t{blockIdx.x} % p.num_token_tiles * kTokens, rest = blockIdx.x / p.num_token_tiles;
  const int64_t h = rest / p.num_out_tiles;
  const int out0 = static_cast<int>(rest % p.num_out_tiles) * kOuts;
  float sums[2 * kOutPairs][4] = {};
  for (int input0 = 0; input0 < p.num_inputs; input0 += kStep) {
    __syncthreads();  // the last step has been multiplied
    for (int at = threadIdx.x; at < kTokens * kStep / 2; at += kThreads) {
      const int row = at / (kStep / 2), i = at % (kStep / 2) * 2;
      const auto value = [&](int k) {
        if (token0 + row >= p.num_tokens || k >= p.num_inputs) return 0.0f;
        return p.x[(token0 + row) * p.x_token_stride + h * p.x_head_stride + k];
      };
      *reinterpret_cast<uint32_t*>(x + Place(kInputRowBytes, row, i / 8) + i % 8 * 2) =
          PackBF16(value(input0 + i), value(input0 + i + 1));
    }
    LoadWeights<Format, kRowsAreInputs>(p, p.first_row + h * p.head_rows, out0, input0, weights);
    __syncthreads();
#pragma unroll
    for (int step = 0; step < kStep / 16; ++step) {
      uint32_t a[4];
      LoadMatrices(a, SharedAddress(x) + Place(kInputRowBytes, 16 * warp_m + lane % 16, 2 * step + lane / 16));
#pragma unroll
      for (int pair = 0; pair < kOutPairs; ++pair) {
        const int out = kOuts / 2 * warp_n + 16 * pair;
        uint32_t b[4];
        if constexpr (kRowsAreInputs) {
          LoadTransposed(b, SharedAddress(weights) + Place(kOutRowBytes, 16 * step + lane % 16, out / 8 + lane / 16));
        } else {
          LoadMatrices(b, SharedAddress(weights) +
                              Place(kInputRowBytes, out + lane / 16 * 8 + lane % 8, 2 * step + lane / 8 % 2));
        }
        Mma(sums[2 * pair], a, {b[0], b[1]});
        Mma(sums[2 * pair + 1], a, {b[2], b[3]});
      }
    }
  }
#pragma unroll
  for (int tile = 0; tile < 2 * kOutPairs; ++tile) {
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const int64_t t = token0 + 16 * warp_m + e / 2 * 8 + lane / 4;
      const int n = out0 + kOuts / 2 * warp_n + 8 * tile + lane % 4 * 2 + e % 2;
      if (t >= p.num_tokens || n >= p.num_outs) continue;
      const int64_t at = t * p.out_token_stride + h * p.out_head_stride + n;
      if (p.rounded != nullptr) {
        p.rounded[at] = ToBF16(sums[tile][e]);
      } else {
        p.out[at] = sums[tile][e];
      }
    }
  }
}

template <bool kRowsAreInputs>
absl::Status Launch(HeadProduct p, int64_t heads, void* stream) {
  p.num_out_tiles = static_cast<int>(CeilDiv(p.num_outs, kOuts));
  p.num_token_tiles = static_cast<int>(CeilDiv(p.num_tokens, kTokens));
  const LaunchShape shape = {heads * p.num_out_tiles * p.num_token_tiles, kThreads};
  return LaunchForFormat(p.w.format, [&](auto format) {
    return LaunchKernel(HeadProductMma<decltype(format), kRowsAreInputs>, shape, stream, p);
  });
}

}  // namespace

absl::Status CudaMmaAbsorbQuery(const AbsorbQueryArgs& a, void* stream) {
  const int64_t head = a.nope + a.rope, latent = a.kv_b.cols;
  return Launch<true>({.x = a.q,
                       .x_token_stride = a.heads * head,
                       .x_head_stride = head,
                       .num_tokens = a.num_tokens,
                       .num_inputs = a.nope,
                       .num_outs = static_cast<int>(latent),
                       .w = a.kv_b,
                       .first_row = 0,
                       .head_rows = a.nope + a.value,
                       .out = a.out,
                       .out_token_stride = a.heads * latent,
                       .out_head_stride = latent},
                      a.heads, stream);
}

absl::Status CudaMmaExpandValue(const ExpandValueArgs& a, void* stream) {
  const int64_t latent = a.kv_b.cols;
  return Launch<false>({.x = a.u,
                        .x_token_stride = a.heads * latent,
                        .x_head_stride = latent,
                        .num_tokens = a.num_tokens,
                        .num_inputs = static_cast<int>(latent),
                        .num_outs = a.value,
                        .w = a.kv_b,
                        .first_row = a.nope,
                        .head_rows = a.nope + a.value,
                        .out = a.out,
                        .rounded = a.rounded,
                        .out_token_stride = int64_t{a.heads} * a.value,
                        .out_head_stride = a.value},
                       a.heads, stream);
}

}  // namespace tokenferry

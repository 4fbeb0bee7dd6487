#include <algorithm>
#include <type_traits>

#include "core/check.h"
#include "core/device/cuda_launch.cuh"
#include "core/kernels/matmul_tile.cuh"
#include "runtime/attention/attention_kernels.h"
#include "runtime/attention/key_selection.h"

namespace tokenferry {
namespace {

constexpr int kScoreThreads = 256;
static_assert(kScoreThreads / kHalfWarp * kTileOuts == kCacheBlockTokens);  // half warps side by side: a cache block
// Blocks that score the keys of few tokens, enough for the multiprocessors of any GPU. Not more: in a graph most of
// them find no keys.
constexpr int64_t kMostScoreBlocks = 1024;

// What a launch scores: tokens [first_token, ..), each by num_parts blocks, which take its cache blocks in turns. The
// scores of one are `stride` floats behind those of the last.
struct ScoreSpan {
  int64_t first_token = 0, num_parts = 1, stride = 0;
};

// Along x a block per (token, part).
template <class T>
__global__ void __launch_bounds__(kScoreThreads, 2)
    IndexScoresKernel(SelectKeysArgs a, ScoreSpan span, float dot_scale, float weight_scale) {
  using Format = std::conditional_t<std::is_same_v<T, BF16>, BF16Weights, F32Weights>;
  extern __shared__ float shared[];
  const int64_t place = blockIdx.x / span.num_parts, t = span.first_token + place, part = blockIdx.x % span.num_parts;
  const int64_t num_keys = int64_t{a.tokens.position[t]} + 1, heads = a.heads, dim = a.keys.first;
  if (num_keys <= a.num_selected) return;  // all are seen
  float *const query = shared, *const weight = query + heads * dim, *const dots = weight + heads;
  for (int64_t i = threadIdx.x; i < heads * dim; i += blockDim.x) {
    const float x = a.q[t * heads * dim + i];
    query[i] = a.compute == Compute::kBF16 ? RoundToBF16(x) : x;
  }
  for (int64_t h = threadIdx.x; h < heads; h += blockDim.x)
    weight[h] = __fmul_rn(a.weight[t * heads + h], weight_scale);
  float* const scores = a.scores.data + place * span.stride;
  for (int64_t begin = part * kCacheBlockTokens; begin < num_keys; begin += span.num_parts * kCacheBlockTokens) {
    const int64_t size = min(num_keys - begin, kCacheBlockTokens);
    const WeightView keys{.format = {.dtype = a.keys.dtype},
                          .data = static_cast<const T*>(a.keys.data) + CacheRow(a.keys, a.tokens.seq[t], begin),
                          .rows = size,
                          .cols = dim};
    __syncthreads();  // the queries are there, and nobody reads the last block's products any more
    for (int64_t h = 0; h < heads; h += kTileRows) {
      MultiplyBlock<Format>(ProductRows<float>{query, dim, nullptr}, keys, h, min(heads - h, int64_t{kTileRows}), 0,
                            ProductOut{dots, kCacheBlockTokens});
    }
    __syncthreads();
    if (threadIdx.x >= size) continue;
    float score = 0.0f;
    for (int64_t h = 0; h < heads; ++h) {
      const float scaled = __fmul_rn(dots[h * kCacheBlockTokens + threadIdx.x], dot_scale);
      score = __fmaf_rn(weight[h], scaled < 0.0f ? 0.0f : scaled, score);  // a NaN stays
    }
    scores[begin + threadIdx.x] = score != score ? -INFINITY : score;
  }
}

constexpr int kDigitBits = 4, kNumDigits = 1 << kDigitBits;
constexpr int kSelectThreads = kNumDigits * kWarpSize;  // a warp per digit

// An order of scores in whole numbers. -0 is no less than +0.
__device__ uint32_t RankOf(float score) {
  const uint32_t bits = internal::BitsFromFloat(__fadd_rn(score, 0.0f));
  return bits >> 31 != 0 ? ~bits : bits | 0x80000000u;
}

__device__ int SumOfWarp(int x) {
  for (int width = kWarpSize / 2; width > 0; width /= 2) x += __shfl_xor_sync(kWholeWarp, x, width);
  return x;
}

// The rank of the last score that is selected, and how many of this rank are: all above it are.
struct Bound {
  uint32_t rank = 0;
  int num_equal = 0;
};

// Of the `wanted` largest of more scores than that, by all threads of the block. Digit by digit: each thread counts its
// scores by digit, those whose digits before are the bound's.
__device__ Bound FindBound(const float* scores, int num_keys, int wanted) {
  __shared__ int counts[kNumDigits][kSelectThreads], totals[kNumDigits];
  const int thread = static_cast<int>(threadIdx.x), lane = thread % kWarpSize, warp = thread / kWarpSize;
  Bound bound{.num_equal = wanted};
  for (int shift = 32 - kDigitBits; shift >= 0; shift -= kDigitBits) {
    for (int digit = 0; digit < kNumDigits; ++digit) counts[digit][thread] = 0;
    for (int i = thread; i < num_keys; i += kSelectThreads) {
      const uint32_t rank = RankOf(scores[i]);
      if ((rank ^ bound.rank) >> shift >> kDigitBits == 0) ++counts[rank >> shift & (kNumDigits - 1)][thread];
    }
    __syncthreads();
    int total = 0;
    for (int i = lane; i < kSelectThreads; i += kWarpSize) total += counts[warp][i];
    total = SumOfWarp(total);
    if (lane == 0) totals[warp] = total;
    __syncthreads();
    uint32_t digit = kNumDigits - 1;
    for (; totals[digit] < bound.num_equal; --digit) bound.num_equal -= totals[digit];
    bound.rank |= digit << shift;
  }
  return bound;
}

// A block per token. Each warp has a run of keys, whose places follow from how many are selected of those before it.
__global__ void __launch_bounds__(kSelectThreads) SelectLargestKernel(SelectKeysArgs a, ScoreSpan span) {
  constexpr int kNumWarps = kSelectThreads / kWarpSize;
  __shared__ int above_per_warp[kNumWarps], equal_per_warp[kNumWarps];
  const int64_t t = span.first_token + blockIdx.x;
  const int num_keys = a.tokens.position[t] + 1, num_selected = static_cast<int>(a.num_selected);
  const int thread = static_cast<int>(threadIdx.x), lane = thread % kWarpSize, warp = thread / kWarpSize;
  int32_t* const selected = a.selected + t * a.num_selected;
  if (num_keys <= num_selected) {
    for (int i = thread; i < num_selected; i += kSelectThreads) selected[i] = i < num_keys ? i : -1;
    return;
  }
  const float* const scores = a.scores.data + blockIdx.x * span.stride;
  const Bound bound = FindBound(scores, num_keys, num_selected);
  const int run = (num_keys + kSelectThreads - 1) / kSelectThreads * kWarpSize;
  const int begin = min(num_keys, warp * run), end = min(num_keys, begin + run);
  int above = 0, equal = 0;
  for (int i = begin + lane; i < end; i += kWarpSize) {
    const uint32_t rank = RankOf(scores[i]);
    above += rank > bound.rank ? 1 : 0;
    equal += rank == bound.rank ? 1 : 0;
  }
  above = SumOfWarp(above);
  equal = SumOfWarp(equal);
  if (lane == 0) {
    above_per_warp[warp] = above;
    equal_per_warp[warp] = equal;
  }
  __syncthreads();
  above = equal = 0;
  for (int w = 0; w < warp; ++w) {
    above += above_per_warp[w];
    equal += equal_per_warp[w];
  }
  const uint32_t lanes_before = (1u << lane) - 1;
  for (int base = begin; base < end; base += kWarpSize) {
    const int i = base + lane;
    const uint32_t rank = i < end ? RankOf(scores[i]) : 0;
    const bool is_above = i < end && rank > bound.rank, is_equal = i < end && rank == bound.rank;
    const unsigned all_above = __ballot_sync(kWholeWarp, is_above), all_equal = __ballot_sync(kWholeWarp, is_equal);
    const int above_before = above + __popc(all_above & lanes_before);
    const int equal_before = equal + __popc(all_equal & lanes_before);
    if (is_above || (is_equal && equal_before < bound.num_equal)) {
      selected[above_before + min(equal_before, bound.num_equal)] = i;
    }
    above += __popc(all_above);
    equal += __popc(all_equal);
  }
}

template <class T>
absl::Status LaunchSelection(const SelectKeysArgs& a, void* stream) {
  const int64_t stride = std::min(a.scores.cols, a.keys.max_blocks * kCacheBlockTokens);
  if (a.tokens.num_tokens == 0) return absl::OkStatus();
  const int64_t most_tokens = a.scores.rows * a.scores.cols / stride;
  TF_CHECK_GT(most_tokens, 0);
  for (int64_t first = 0; first < a.tokens.num_tokens; first += most_tokens) {
    const int64_t num_tokens = std::min(most_tokens, a.tokens.num_tokens - first);
    const int64_t num_parts = std::min(CeilDiv(stride, kCacheBlockTokens), CeilDiv(kMostScoreBlocks, num_tokens));
    const ScoreSpan span{first, num_parts, stride};
    const size_t shared_bytes = a.heads * (a.keys.first + 1 + kCacheBlockTokens) * sizeof(float);
    TF_RETURN_IF_ERROR(LaunchKernel(IndexScoresKernel<T>, {num_tokens * num_parts, kScoreThreads, shared_bytes}, stream,
                                    a, span, InverseRoot(a.keys.first), InverseRoot(a.heads)));
    TF_RETURN_IF_ERROR(LaunchKernel(SelectLargestKernel, {num_tokens, kSelectThreads}, stream, a, span));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CudaSelectKeys(const SelectKeysArgs& a, void* stream) {
  return a.keys.dtype == DType::kBF16 ? LaunchSelection<BF16>(a, stream) : LaunchSelection<float>(a, stream);
}

}  // namespace tokenferry

#include "runtime/attention/key_selection.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "core/check.h"
#include "core/device/cuda_launcher.h"
#include "core/kernels/dot.h"
#include "core/kernels/scratch.h"
#include "runtime/attention/attention_kernels.h"
#include "runtime/ops/row_kernels.h"

namespace tokenferry {
namespace {

// Keys that a task scores at least, where a step has too few tokens for all threads.
constexpr int64_t kBlocksPerScoreTask = 16;

// scores[0 .. size) of the keys at positions begin .. begin + size, which lie in one block, for token t. `scratch` has
// ScoreScratch floats.
int64_t ScoreScratch(const SelectKeysArgs& a) {
  return a.heads * (a.keys.first + kCacheBlockTokens + 1) + kCacheBlockTokens * a.keys.first;
}

void ScoreBlock(const SelectKeysArgs& a, int64_t t, int64_t begin, int64_t size, const RowKernels& kernels,
                float* scratch, float* scores) {
  const int64_t dim = a.keys.first, heads = a.heads;
  float *const query = scratch, *const dots = query + heads * dim, *const weights = dots + heads * kCacheBlockTokens;
  float* const widened = weights + heads;
  CopyRounded(a.q + t * heads * dim, heads * dim, a.compute, query);
  const int64_t row = CacheRow(a.keys, a.tokens.seq[t], begin);
  Rows keys{static_cast<const float*>(a.keys.data) + row, size, dim};
  if (a.keys.dtype == DType::kBF16) {
    const WeightView block{.format = {.dtype = DType::kBF16},
                           .data = static_cast<const BF16*>(a.keys.data) + row,
                           .rows = 1,
                           .cols = size * dim};
    kernels.widen(block, {0, 1, 0, size * dim}, Compute::kF32, widened);
    keys.data = widened;
  }
  kernels.dot({query, heads, dim}, keys, dim, dots, kCacheBlockTokens);
  const float scale = InverseRoot(dim), share = InverseRoot(heads);
  for (int64_t h = 0; h < heads; ++h) {
    weights[h] = a.weight[t * heads + h] * share;
    float* const of_head = dots + h * kCacheBlockTokens;
    for (int64_t j = 0; j < size; ++j) {
      const float scaled = of_head[j] * scale;
      of_head[j] = scaled < 0 ? 0.0f : scaled;  // a NaN stays
    }
  }
  std::fill_n(scores, size, 0.0f);
  kernels.weighted_sum({weights, 1, heads}, {dots, heads, kCacheBlockTokens}, size, nullptr, scores, size);
  for (int64_t j = 0; j < size; ++j) {
    if (std::isnan(scores[j])) scores[j] = -std::numeric_limits<float>::infinity();
  }
}

// Blocks [first_block, end_block) of token t's keys, scores by position.
void ScoreBlocks(const SelectKeysArgs& a, int64_t t, int64_t first_block, int64_t end_block, const RowKernels& kernels,
                 float* scratch, float* scores) {
  const int64_t num_keys = a.tokens.position[t] + 1;
  for (int64_t block = first_block; block < end_block; ++block) {
    const int64_t begin = block * kCacheBlockTokens;
    ScoreBlock(a, t, begin, std::min(kCacheBlockTokens, num_keys - begin), kernels, scratch, scores + begin);
  }
}

bool SeesAll(const SelectKeysArgs& a, int64_t t) { return a.tokens.position[t] < a.num_selected; }

void SelectAll(const SelectKeysArgs& a, int64_t t) {
  int32_t* const selected = a.selected + t * a.num_selected;
  const int64_t num_keys = a.tokens.position[t] + 1;
  for (int64_t i = 0; i < a.num_selected; ++i) selected[i] = i < num_keys ? static_cast<int32_t>(i) : -1;
}

// Of more keys than num_selected.
void SelectLargest(const SelectKeysArgs& a, int64_t t, const float* scores) {
  std::vector<int32_t> order(a.tokens.position[t] + 1);
  std::iota(order.begin(), order.end(), 0);
  const auto end = order.begin() + a.num_selected;
  std::nth_element(order.begin(), end - 1, order.end(), [scores](int32_t i, int32_t j) {
    return scores[i] > scores[j] || (scores[i] == scores[j] && i < j);
  });
  std::sort(order.begin(), end);
  std::copy(order.begin(), end, a.selected + t * a.num_selected);
}

// Plainly, one key after the other.
float ScoreOf(const SelectKeysArgs& a, int64_t t, int64_t position) {
  const int64_t dim = a.keys.first, row = CacheRow(a.keys, a.tokens.seq[t], position);
  std::vector<float> key(dim), query(dim);
  for (int64_t i = 0; i < dim; ++i) {
    key[i] = a.keys.dtype == DType::kF32 ? static_cast<const float*>(a.keys.data)[row + i]
                                         : ToFloat(static_cast<const BF16*>(a.keys.data)[row + i]);
  }
  float sum = 0;
  for (int64_t h = 0; h < a.heads; ++h) {
    CopyRounded(a.q + (t * a.heads + h) * dim, dim, a.compute, query.data());
    const float dot = DotF32(query.data(), key.data(), dim) * InverseRoot(dim);
    sum = std::fma(a.weight[t * a.heads + h] * InverseRoot(a.heads), dot < 0 ? 0.0f : dot, sum);
  }
  return std::isnan(sum) ? -std::numeric_limits<float>::infinity() : sum;
}

void SelectReference(const SelectKeysArgs& a) {
  for (int64_t t = 0; t < a.tokens.num_tokens; ++t) {
    if (SeesAll(a, t)) {
      SelectAll(a, t);
      continue;
    }
    std::vector<float> scores;
    for (int64_t j = 0; j <= a.tokens.position[t]; ++j) scores.push_back(ScoreOf(a, t, j));
    std::vector<int32_t> order(scores.size());
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](int32_t i, int32_t j) { return scores[i] > scores[j]; });
    std::sort(order.begin(), order.begin() + a.num_selected);
    std::copy_n(order.begin(), a.num_selected, a.selected + t * a.num_selected);
  }
}

// A token whose scores are shared among the threads.
void SelectByManyThreads(const SelectKeysArgs& a, int64_t t, const RowKernels& kernels, CpuContext& context) {
  const int64_t num_blocks = CacheBlocks(a.tokens.position[t] + 1);
  std::vector<float> scores(num_blocks * kCacheBlockTokens);
  context.pool.ParallelFor((num_blocks + kBlocksPerScoreTask - 1) / kBlocksPerScoreTask, [&](int64_t task, int) {
    const int64_t first = task * kBlocksPerScoreTask;
    auto* const scratch = static_cast<float*>(ThreadScratch(ScoreScratch(a) * sizeof(float)));
    ScoreBlocks(a, t, first, std::min(num_blocks, first + kBlocksPerScoreTask), kernels, scratch, scores.data());
  });
  SelectLargest(a, t, scores.data());
}

void SelectCpu(const SelectKeysArgs& a, CpuContext& context) {
  const RowKernels& kernels = RowKernelsFor(context.isa);
  if (a.tokens.num_tokens < context.pool.num_threads()) {
    for (int64_t t = 0; t < a.tokens.num_tokens; ++t) {
      SeesAll(a, t) ? SelectAll(a, t) : SelectByManyThreads(a, t, kernels, context);
    }
    return;
  }
  context.pool.ParallelFor(a.tokens.num_tokens, [&](int64_t t, int) {
    if (SeesAll(a, t)) return SelectAll(a, t);
    const int64_t num_keys = a.tokens.position[t] + 1;
    auto* const scratch = static_cast<float*>(ThreadScratch((ScoreScratch(a) + num_keys) * sizeof(float)));
    float* const scores = scratch + ScoreScratch(a);
    ScoreBlocks(a, t, 0, CacheBlocks(num_keys), kernels, scratch, scores);
    SelectLargest(a, t, scores);
  });
}

}  // namespace

absl::Status CudaSelectKeys(const SelectKeysArgs& args, void* stream);  // key_selection.cu

constexpr Op<SelectKeysArgs> kSelectKeys{"select_keys", &SelectReference, &SelectCpu, TF_CUDA_LAUNCHER(CudaSelectKeys)};

void SelectKeys(Stream& stream, const SelectKeysArgs& args) {
  TF_CHECK_GT(args.heads, 0);
  TF_CHECK_GT(args.num_selected, 0);
  TF_CHECK_GT(args.keys.first, 0);
  TF_CHECK_EQ(args.keys.second, 0);
  TF_CHECK_EQ(args.scores.stride, args.scores.cols);
  stream.Launch(kSelectKeys, args);
}

}  // namespace tokenferry

// Latent attention in bf16 of random numbers, as tests of its kernel on tensor cores run it.
#pragma once

#include <algorithm>
#include <numeric>
#include <utility>

#include "runtime/attention/attention_ops.h"
#include "tests/runtime/attention/mma_run.h"

namespace tokenferry::latent_mma {

struct Shape {
  int32_t heads;
  int64_t latent;
  int32_t rope;
};
inline constexpr int64_t kSequences = 2;
inline constexpr int32_t kNope = 3;
inline constexpr float kScale = 0.05f;

struct Problem {
  Shape shape;
  int64_t max_blocks = 0;  // of a sequence
  std::vector<int32_t> seq, position, block_table;
  std::vector<float> q_latent, q;
  std::vector<BF16> cache;
  int64_t num_selected = 0;  // 0: all keys
  std::vector<int32_t> selected;

  int64_t num_tokens() const { return std::ssize(position); }
  int64_t width() const { return shape.latent + shape.rope; }
  std::vector<int64_t> KeysOf(int64_t t) const {
    std::vector<int64_t> keys;
    for (int64_t i = 0; i <= position[t]; ++i) keys.push_back(i);
    if (num_selected == 0) return keys;
    keys.clear();
    for (int64_t i = 0; i < num_selected; ++i) {
      if (const int32_t key = selected[t * num_selected + i]; key >= 0) keys.push_back(key);
    }
    return keys;
  }
  const BF16* Row(int64_t t, int64_t key) const {
    const int64_t block = block_table[seq[t] * max_blocks + key / kCacheBlockTokens];
    return cache.data() + (block * kCacheBlockTokens + key % kCacheBlockTokens) * width();
  }
  // As it enters the product.
  std::vector<double> Query(int64_t t, int64_t h) const {
    const int64_t row = t * shape.heads + h;
    const float* const rope = &q[row * (kNope + shape.rope) + kNope];
    std::vector<double> query(&q_latent[row * shape.latent], &q_latent[row * shape.latent] + shape.latent);
    query.insert(query.end(), rope, rope + shape.rope);
    for (double& x : query) x = ToFloat(ToBF16(static_cast<float>(x)));
    return query;
  }
};

// Token t at positions[t]; num_selected > 0: it sees as many keys of those up to its own, at random.
inline Problem RandomProblem(const Shape& shape, std::vector<int32_t> positions, uint32_t seed,
                             int64_t num_selected = 0) {
  std::mt19937 rng(seed);
  Problem p;
  p.shape = shape;
  p.position = std::move(positions);
  p.max_blocks = BlocksFor(p.position);
  const int64_t rows = p.num_tokens() * shape.heads;
  p.seq = UniformInts(rng, p.num_tokens(), 0, kSequences);
  p.block_table.resize(kSequences * p.max_blocks);
  std::iota(p.block_table.begin(), p.block_table.end(), 0);
  std::shuffle(p.block_table.begin(), p.block_table.end(), rng);
  p.q_latent = NormalFloats(rng, rows * shape.latent);
  p.q = NormalFloats(rng, rows * (kNope + shape.rope));
  p.cache = NormalValues<BF16>(rng, kSequences * p.max_blocks * kCacheBlockTokens * p.width());
  p.num_selected = num_selected;
  for (int64_t t = 0; num_selected > 0 && t < p.num_tokens(); ++t) {
    std::vector<int32_t> keys(std::max(0, p.position[t] + 1));
    std::iota(keys.begin(), keys.end(), 0);
    std::shuffle(keys.begin(), keys.end(), rng);
    keys.resize(num_selected, -1);
    std::sort(keys.begin(), std::find(keys.begin(), keys.end(), -1));
    p.selected.insert(p.selected.end(), keys.begin(), keys.end());
  }
  return p;
}

// The same, and `count` rows behind it that are no tokens.
inline Problem WithoutTokens(Problem p, int64_t count) {
  p.seq.resize(p.num_tokens() + count);
  p.position.resize(p.seq.size(), -1);
  const int64_t rows = p.num_tokens() * p.shape.heads;
  p.q_latent.resize(rows * p.shape.latent), p.q.resize(rows * (kNope + p.shape.rope));
  p.selected.resize(p.num_tokens() * p.num_selected, -1);
  return p;
}

// out [tokens, heads, latent], and what is behind it.
inline std::vector<uint8_t> RunAttention(Device& device, const Problem& p) {
  OpRun run(device, 0);
  LatentAttentionArgs args;
  args.q_latent = run.Input(p.q_latent);
  args.q = run.Input(p.q);
  args.heads = p.shape.heads, args.nope = kNope, args.rope = p.shape.rope;
  args.scale = kScale;
  args.tokens = {run.Input(p.seq), run.Input(p.position), p.num_tokens()};
  args.cache.data = run.Input(p.cache);
  args.cache.dtype = DType::kBF16;
  args.cache.first = p.shape.latent, args.cache.second = p.shape.rope;
  args.cache.block_table = run.Input(p.block_table);
  args.cache.max_blocks = p.max_blocks;
  args.out = run.Output<float>("out", p.num_tokens() * p.shape.heads * p.shape.latent);
  args.compute = Compute::kBF16;
  args.splits = SplitSumsOf(run, p.num_tokens(), p.shape.heads);
  if (p.num_selected > 0) args.selected = run.Input(p.selected), args.num_selected = p.num_selected;
  LatentAttention(run.stream(), args);
  return FinishRun(run);
}

}  // namespace tokenferry::latent_mma

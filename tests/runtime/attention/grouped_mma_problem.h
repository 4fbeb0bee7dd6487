// Grouped attention in bf16 of random numbers, as tests of its kernel on tensor cores run it.
#pragma once

#include <algorithm>
#include <numeric>
#include <utility>

#include "runtime/attention/attention_ops.h"
#include "tests/runtime/attention/mma_run.h"

namespace tokenferry::grouped_mma {

struct Shape {
  int32_t heads, kv_heads, head_dim;
  KeyRange keys = {};
};
using Kind = KeyRange::Kind;
inline constexpr int64_t kSequences = 2, kReach = 40;
inline constexpr float kScale = 0.1f;

struct Problem {
  Shape shape;
  int64_t max_blocks = 0;                                     // of a sequence
  std::vector<int32_t> seq, position, block_table, last_key;  // last_key: empty: a token's own
  std::vector<float> q, sinks, bias;                          // empty: none
  std::vector<BF16> cache;

  int64_t num_tokens() const { return std::ssize(position); }
  int64_t kv_size() const { return int64_t{shape.kv_heads} * shape.head_dim; }
  int64_t Last(int64_t t) const { return last_key.empty() || position[t] < 0 ? position[t] : last_key[t]; }
  const BF16* Row(int64_t t, int64_t key) const {
    const int64_t block = block_table[seq[t] * max_blocks + key / kCacheBlockTokens];
    return cache.data() + (block * kCacheBlockTokens + key % kCacheBlockTokens) * 2 * kv_size();
  }
};

// What a problem has besides queries, keys and values.
enum class With { kNothing, kSinks, kBiasAndLastKeys };

inline Problem RandomProblem(const Shape& shape, std::vector<int32_t> positions, uint32_t seed,
                             With with = With::kNothing) {
  std::mt19937 rng(seed);
  Problem p;
  p.shape = shape;
  p.position = std::move(positions);
  p.max_blocks = BlocksFor(p.position);
  p.seq = UniformInts(rng, p.num_tokens(), 0, kSequences);
  p.block_table.resize(kSequences * p.max_blocks);
  std::iota(p.block_table.begin(), p.block_table.end(), 0);
  std::shuffle(p.block_table.begin(), p.block_table.end(), rng);
  p.q = NormalFloats(rng, p.num_tokens() * shape.heads * shape.head_dim);
  p.cache = NormalValues<BF16>(rng, kSequences * p.max_blocks * kCacheBlockTokens * 2 * p.kv_size());
  if (with == With::kSinks) p.sinks = NormalFloats(rng, shape.heads);
  if (with == With::kBiasAndLastKeys) {
    p.bias = NormalFloats(rng, shape.heads * (2 * kReach + 1));
    if (shape.keys.kind == Kind::kAll) p.last_key = UniformInts(rng, p.num_tokens(), 0, 2 * kCacheBlockTokens);
  }
  return p;
}

// The same, and `count` rows behind it that are no tokens.
inline Problem WithoutTokens(Problem p, int64_t count) {
  p.seq.resize(p.num_tokens() + count);
  p.position.resize(p.seq.size(), -1);
  if (!p.last_key.empty()) p.last_key.resize(p.seq.size());
  p.q.resize(p.num_tokens() * p.shape.heads * p.shape.head_dim);
  return p;
}

// out [tokens, heads, head_dim], and what is behind it.
inline std::vector<uint8_t> RunAttention(Device& device, const Problem& p) {
  OpRun run(device, 0);
  GroupedAttentionArgs args;
  args.q = run.Input(p.q);
  args.heads = p.shape.heads, args.kv_heads = p.shape.kv_heads, args.head_dim = p.shape.head_dim;
  args.scale = kScale;
  args.keys = p.shape.keys;
  if (!p.sinks.empty()) args.sinks = run.Input(p.sinks);
  if (!p.bias.empty()) args.bias = {run.Input(p.bias), kReach};
  if (!p.last_key.empty()) args.last_key = run.Input(p.last_key);
  args.tokens = {run.Input(p.seq), run.Input(p.position), p.num_tokens()};
  args.cache.data = run.Input(p.cache);
  args.cache.dtype = DType::kBF16;
  args.cache.first = args.cache.second = p.kv_size();
  args.cache.block_table = run.Input(p.block_table);
  args.cache.max_blocks = p.max_blocks;
  args.out = run.Output<float>("out", p.num_tokens() * p.shape.heads * p.shape.head_dim);
  args.compute = Compute::kBF16;
  args.splits = SplitSumsOf(run, p.num_tokens(), p.shape.heads);
  GroupedAttention(run.stream(), args);
  return FinishRun(run);
}

}  // namespace tokenferry::grouped_mma

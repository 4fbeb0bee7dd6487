// Operations of attention over a paged cache: grouped attention, and multi-head latent attention (DeepSeek-V2/V3) in
// its absorbed form, the same formula for prefill and decode, so that a token's result does not depend on how its
// prompt was chunked:
//   q~[h] = q_nope[h] . W_UK[h]; score_j = (q~[h] . c_j + q_rope[h] . k_rope_j) * scale; u[h] = sum_j P_j c_j; o[h] =
//   W_UV[h] u[h]
#pragma once

#include <cmath>

#include "core/device/device.h"
#include "core/formats/tensor.h"
#include "core/formats/weight_format.h"
#include "runtime/attention/rope.h"

namespace tokenferry {

// size^-0.5, rounded once: what scores of heads of that size are scaled by.
inline float InverseRoot(int64_t size) { return static_cast<float>(1 / std::sqrt(static_cast<double>(size))); }

// Keys per cache block, and per step of the attention's online softmax: keys are visited in blocks of this many from
// position 0, whatever the chunk.
inline constexpr int64_t kCacheBlockTokens = 64;

// Blocks of a cache that hold `num_tokens` tokens of one sequence.
constexpr int64_t CacheBlocks(int64_t num_tokens) {
  return num_tokens / kCacheBlockTokens + (num_tokens % kCacheBlockTokens != 0 ? 1 : 0);
}

// The part of the cache that belongs to one layer. A row has two parts: the latent after its norm and the rope key
// after RoPE; or the keys of all heads after RoPE and the values of all heads. Token `pos` of sequence s lies in block
// block_table[s][pos / kCacheBlockTokens].
struct CacheView {
  void* data = nullptr;                  // [num_blocks, kCacheBlockTokens, first + second]
  DType dtype = DType::kF32;             // kF32, or kBF16 (rounded once when written)
  int64_t first = 0, second = 0;         // values in each part
  const int32_t* block_table = nullptr;  // [num_seqs, max_blocks]
  int64_t max_blocks = 0;
};

// Where the step's tokens stand. Device memory, T = num_tokens.
struct TokenPositions {
  const int32_t* seq = nullptr;  // [T] row of the block table
  // [T] position within the sequence; negative: no token, as in a step of fixed shape that has fewer. Nothing of it is
  // rotated or written, its attention is zeros, and its row of the block table is not read.
  const int32_t* position = nullptr;
  int64_t num_tokens = 0;
  // [T] row of the table of rotations, where sequences are rotated differently (RopeRow); null: the position.
  const int32_t* rope_row = nullptr;

  TF_HOST_DEVICE int64_t RotationRow(int64_t t) const { return rope_row == nullptr ? position[t] : rope_row[t]; }
};

// Where the splits of a token's keys that a GPU's kernels make (attention_mma.h) add up, for T tokens of `heads` query
// heads. Device memory of one stream; other devices do not look at it.
struct SplitSums {
  float* sums = nullptr;     // [T, heads, 2]: of a head's weights so far, and their largest score
  int32_t* turns = nullptr;  // [Turns(T, heads)], zeros; every launch leaves zeros behind

  static constexpr int64_t Turns(int64_t num_tokens, int64_t heads) { return 1 + num_tokens * heads; }
};

// Rotates pairs in place, (a, b) -> (a * cos - b * sin, a * sin + b * cos) with every product rounded: per token
// `heads` vectors of `dim`, at x + t * stride + h * head_stride; which two values are a pair says `layout`. cos_sin is
// [rows, dim] f32, row RotationRow(t) for token t: dim / 2 cosines, then dim / 2 sines.
struct RopeArgs {
  float* x = nullptr;
  int64_t stride = 0, head_stride = 0;
  int32_t heads = 1;
  int32_t dim = 0;
  const float* cos_sin = nullptr;
  TokenPositions tokens;
  RopeLayout layout = RopeLayout::kInterleaved;
};
void Rotate(Stream& stream, const RopeArgs& args);

// Writes the two parts of each token's row into the cache, f32 [T, cache.first] and [T, cache.second], row strides
// given.
struct CacheWriteArgs {
  const float* first = nullptr;
  int64_t first_stride = 0;
  const float* second = nullptr;
  int64_t second_stride = 0;
  TokenPositions tokens;
  CacheView cache;
};
void CacheWrite(Stream& stream, const CacheWriteArgs& args);

// q~[t, h, :] = sum_i q_nope[t, h, i] * W_UK[h][i, :], i increasing, one fma chain per element. kv_b is the stored
// [heads * (nope + value), r] matrix; head h's W_UK is its rows h * (nope + value) .. + nope. In kBF16 q_nope and the
// weight are rounded to bf16 first; tensor cores have an order of their own (attention_mma.h).
struct AbsorbQueryArgs {
  const float* q = nullptr;  // [T, heads, nope + rope]; the first `nope` of a head are read
  int64_t num_tokens = 0;
  int32_t heads = 0, nope = 0, rope = 0, value = 0;
  WeightView kv_b;
  float* out = nullptr;  // [T, heads, r]
  Compute compute = Compute::kF32;
};
void AbsorbQuery(Stream& stream, const AbsorbQueryArgs& args);

// u[t, h, :]: causal attention of token t over positions 0 .. position[t] of its sequence. A score is one dot product
// of [q~ | rope query] with the cache row, r + p inputs in core/kernels/matmul.h's lane order, times scale. The softmax
// runs online over the fixed key blocks in f32, with core/kernels/exp.h; with m the maximum so far and f = exp(m before
// - m):
//   weight_j = exp(score_j - m); sum = fma(sum, f, the block's weights added up in lane order, key j of it in lane j %
//   16); acc = acc * f, then one fma chain over the block's keys in order; in the end u = acc / sum.
// In kBF16 q~ and the rope query are rounded to bf16 before the scores, and GPUs use tensor cores, with orders of sums
// of their own (attention_mma.h). Where `selected` says which keys a token sees, they are the only ones, and
// blocks are of so many of them in their order: those who see all keys get the same bits.
struct LatentAttentionArgs {
  const float* q_latent = nullptr;  // [T, heads, r]
  const float* q = nullptr;         // [T, heads, nope + rope]; the last `rope` of a head (rotated) are read
  int32_t heads = 0, nope = 0, rope = 0;
  float scale = 0;
  TokenPositions tokens;
  CacheView cache;
  float* out = nullptr;  // [T, heads, r]
  Compute compute = Compute::kF32;
  const int32_t* selected = nullptr;  // [T, num_selected] positions, increasing, -1 behind the last; null: all keys
  int64_t num_selected = 0;
  SplitSums splits = {};

  // Whether token t sees all keys up to its own.
  TF_HOST_DEVICE bool SeesAll(int64_t t) const { return selected == nullptr || tokens.position[t] < num_selected; }
};
void LatentAttention(Stream& stream, const LatentAttentionArgs& args);

// What a score gains by how far a key is from its query, by head: offsets beyond `reach` count as `reach`
// (runtime/attention/relative_bias.h makes the values). Device memory.
struct RelativeBias {
  const float* values = nullptr;  // [heads, 2 * reach + 1], offset key - query = -reach first; null: nothing
  int64_t reach = 0;

  TF_HOST_DEVICE const float* Head(int64_t head) const { return values + head * (2 * reach + 1); }
  TF_HOST_DEVICE float At(int64_t head, int64_t offset) const {
    const int64_t within = offset < -reach ? -reach : offset > reach ? reach : offset;
    return Head(head)[within + reach];
  }
};

// Which keys a token sees, of those up to its own position.
struct KeyRange {
  enum class Kind : uint8_t {
    kAll,
    kSliding,  // the last `size`, its own included
    kChunk,    // those of its own chunk, positions being cut into chunks of `size` (Llama 4)
  };
  Kind kind = Kind::kAll;
  int64_t size = 0;

  friend bool operator==(const KeyRange&, const KeyRange&) = default;
  TF_HOST_DEVICE int64_t First(int64_t position) const {
    if (kind == Kind::kSliding) return position < size ? 0 : position - size + 1;
    return kind == Kind::kChunk ? position / size * size : 0;
  }
};

// x[t, :] *= factors[floor((position[t] + 1) / period)] (Llama 4's attention temperature).
struct TemperatureArgs {
  MatrixView<float> x;
  const float* factors = nullptr;  // TemperatureFactors of all positions that there may be
  float period = 1;
  TokenPositions tokens;
};
TF_HOST_DEVICE inline int64_t TemperaturePlace(const TemperatureArgs& a, int64_t t) {
  return static_cast<int64_t>((static_cast<double>(a.tokens.position[t]) + 1.0) / static_cast<double>(a.period));
}
// 1 + scale * ln(1 + i) for i = 0 .. floor(num_positions / period), in double with libm's logarithm and rounded once: a
// table, as of rotations, so that every device has the same factors.
std::vector<float> TemperatureFactors(float scale, float period, int64_t num_positions);
void ApplyTemperature(Stream& stream, const TemperatureArgs& args);

// out[t, h, :]: attention of query head h of token t over the keys and values of head h / (heads / kv_heads) that it
// sees. Scores, softmax and sums as LatentAttention's, a key block being cut to what the token sees of it: keys outside
// its range take no part. A sink is one more score, unscaled, without a value: the softmax starts from maximum sinks[h]
// and sum 1. A relative bias is added to the dot product, before the scale.
struct GroupedAttentionArgs {
  const float* q = nullptr;  // [T, heads, head_dim], rotated
  int32_t heads = 0, kv_heads = 0, head_dim = 0;
  float scale = 0;
  KeyRange keys;
  const float* sinks = nullptr;  // [heads], or null
  TokenPositions tokens;
  CacheView cache;       // first = second = kv_heads * head_dim
  float* out = nullptr;  // [T, heads, head_dim]
  Compute compute = Compute::kF32;
  // [T] the last position that a token sees, whatever its own: of the whole input of an encoder. Null: its own.
  const int32_t* last_key = nullptr;
  RelativeBias bias = {};
  SplitSums splits = {};

  TF_HOST_DEVICE int64_t Last(int64_t t) const {
    return last_key == nullptr || tokens.position[t] < 0 ? tokens.position[t] : last_key[t];
  }
};
void GroupedAttention(Stream& stream, const GroupedAttentionArgs& args);

// o[t, h, :] = W_UV[h] . u[t, h, :] in matmul.h's lane order, in kBF16 with both rounded (on tensor cores in theirs);
// W_UV[h] = kv_b's rows h * (nope + value) + nope .. + value.
struct ExpandValueArgs {
  const float* u = nullptr;  // [T, heads, r]
  int64_t num_tokens = 0;
  int32_t heads = 0, nope = 0, value = 0;
  WeightView kv_b;
  float* out = nullptr;  // [T, heads * value]
  Compute compute = Compute::kF32;
  BF16* rounded = nullptr;  // where products run on tensor cores: instead of `out`, o rounded for the next one
};
void ExpandValue(Stream& stream, const ExpandValueArgs& args);

}  // namespace tokenferry

// Operations of multi-head latent attention (DeepSeek-V2/V3) in its absorbed form, over a paged cache of latents.
// The same formula for prefill and decode, so that a token's result does not depend on how its prompt was chunked:
//   q~[h] = q_nope[h] . W_UK[h]; score_j = (q~[h] . c_j + q_rope[h] . k_rope_j) * scale; u[h] = sum_j P_j c_j; o[h] =
//   W_UV[h] u[h]
#pragma once

#include "core/device/device.h"
#include "core/formats/tensor.h"
#include "core/formats/weight_format.h"

namespace tokenferry {

// Keys per cache block, and per step of the attention's online softmax: keys are visited in blocks of this many from
// position 0, whatever the chunk.
inline constexpr int64_t kCacheBlockTokens = 64;

// Blocks of a cache that hold `num_tokens` tokens of one sequence.
constexpr int64_t CacheBlocks(int64_t num_tokens) {
  return num_tokens / kCacheBlockTokens + (num_tokens % kCacheBlockTokens != 0 ? 1 : 0);
}

// The part of the cache that belongs to one layer. A cache row is [latent (r) | rope key (p)], c after its norm, the
// key after RoPE. Token `pos` of sequence s lies in block block_table[s][pos / kCacheBlockTokens].
struct LatentCacheView {
  void* data = nullptr;                  // [num_blocks, kCacheBlockTokens, r + p]
  DType dtype = DType::kF32;             // kF32, or kBF16 (rounded once when written)
  int64_t latent = 0;                    // r
  int64_t rope = 0;                      // p
  const int32_t* block_table = nullptr;  // [num_seqs, max_blocks]
  int64_t max_blocks = 0;
};

// Where the step's tokens stand. Device memory, T = num_tokens.
struct TokenPositions {
  const int32_t* seq = nullptr;       // [T] row of the block table
  const int32_t* position = nullptr;  // [T] position within the sequence
  int64_t num_tokens = 0;
};

// Rotates interleaved pairs (2i, 2i + 1) in place, (a, b) -> (a * cos - b * sin, a * sin + b * cos) with every product
// rounded: per token `heads` vectors of `dim`, at x + t * stride + h * head_stride.
// cos_sin is [max_position, dim]: per position dim / 2 cosines, then dim / 2 sines, f32.
struct RopeArgs {
  float* x = nullptr;
  int64_t stride = 0, head_stride = 0;
  int32_t heads = 1;
  int32_t dim = 0;
  const float* cos_sin = nullptr;
  TokenPositions tokens;
};
void RopeInterleaved(Stream& stream, const RopeArgs& args);

// Writes each token's row into the cache: latent [T, r] and rope key [T, p], f32, row strides given.
struct CacheWriteArgs {
  const float* latent = nullptr;
  int64_t latent_stride = 0;
  const float* rope = nullptr;
  int64_t rope_stride = 0;
  TokenPositions tokens;
  LatentCacheView cache;
};
void CacheWrite(Stream& stream, const CacheWriteArgs& args);

// q~[t, h, :] = sum_i q_nope[t, h, i] * W_UK[h][i, :], i increasing, one fma chain per element. kv_b is the stored
// [heads * (nope + value), r] matrix; head h's W_UK is its rows h * (nope + value) .. + nope. In kBF16 q_nope and the
// weight are rounded to bf16 first.
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
// In kBF16 q~ and the rope query are rounded to bf16 before the scores.
struct LatentAttentionArgs {
  const float* q_latent = nullptr;  // [T, heads, r]
  const float* q = nullptr;         // [T, heads, nope + rope]; the last `rope` of a head (rotated) are read
  int32_t heads = 0, nope = 0, rope = 0;
  float scale = 0;
  TokenPositions tokens;
  LatentCacheView cache;
  float* out = nullptr;  // [T, heads, r]
  Compute compute = Compute::kF32;
};
void LatentAttention(Stream& stream, const LatentAttentionArgs& args);

// o[t, h, :] = W_UV[h] . u[t, h, :] in matmul.h's lane order; W_UV[h] = kv_b's rows h * (nope + value) + nope .. +
// value.
struct ExpandValueArgs {
  const float* u = nullptr;  // [T, heads, r]
  int64_t num_tokens = 0;
  int32_t heads = 0, nope = 0, value = 0;
  WeightView kv_b;
  float* out = nullptr;  // [T, heads * value]
  Compute compute = Compute::kF32;
};
void ExpandValue(Stream& stream, const ExpandValueArgs& args);

}  // namespace tokenferry

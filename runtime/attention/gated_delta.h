// Gated delta nets (Yang et al., arXiv:2412.06464, as Qwen3-Next has them): attention whose memory of a sequence is a
// matrix per head instead of keys and values, computed token by token, so that a token's bits do not depend on how its
// prompt was cut.
#pragma once

#include "core/device/device.h"
#include "runtime/attention/attention_ops.h"

namespace tokenferry {

// A value head h belongs to key head h / values_per_key().
struct DeltaShape {
  int64_t num_key_heads = 0, num_value_heads = 0;
  int64_t key_dim = 0, value_dim = 0;
  int64_t conv_size = 0;  // taps of the convolution

  friend bool operator==(const DeltaShape&, const DeltaShape&) = default;
  TF_HOST_DEVICE int64_t values_per_key() const { return num_value_heads / num_key_heads; }
  TF_HOST_DEVICE int64_t values_size() const { return num_value_heads * value_dim; }
  // What is convolved of a token: all queries, all keys, all values.
  TF_HOST_DEVICE int64_t num_channels() const { return 2 * num_key_heads * key_dim + values_size(); }
  // What is kept of a sequence: the last conv_size - 1 rows of channels, then per value head a matrix [key_dim,
  // value_dim].
  TF_HOST_DEVICE int64_t conv_state() const { return (conv_size - 1) * num_channels(); }
  TF_HOST_DEVICE int64_t state_size() const { return conv_state() + num_value_heads * key_dim * value_dim; }
};

// What a layer keeps of each sequence, f32. Whose first token is in a step finds what an earlier sequence has left
// there, and does not look at it.
struct StateView {
  float* data = nullptr;           // [num_slots, size]
  int64_t size = 0;                // DeltaShape::state_size()
  const int32_t* slots = nullptr;  // [num_seqs] by TokenPositions::seq

  TF_HOST_DEVICE float* of(int32_t seq) const { return data + slots[seq] * size; }
};

// A part of a projection [T, ..], by key head: what it has of token t for key head g begins at data + t * stride + g *
// group_stride, all of it in one piece. So projections are read as models have them, grouped by head or one by one.
struct HeadGroups {
  const float* data = nullptr;
  int64_t stride = 0, group_stride = 0;

  TF_HOST_DEVICE const float* at(int64_t t, int64_t g) const { return data + t * stride + g * group_stride; }
};

// Queries, keys and values of T tokens from their projections u. Per channel y[t] = silu(sum_j weight[j] * u[t -
// conv_size + 1 + j]), j = 0, 1, .., every product and sum rounded, u = 0 before the sequence's start; silu(x) = x *
// (1 / (1 + exp(-x))). Then every head of queries and keys is divided by sqrt(its sum of squares in matmul.h's lane
// order + 1e-6), as a product with 1 / sqrt, and queries are multiplied by 1 / sqrt(key_dim).
// The tokens of a sequence are consecutive in a step and in the sequence; the state then has their last rows of u. Rows
// without a token become zeros, and no state is looked at.
struct DeltaInputsArgs {
  HeadGroups q, k, v;             // key_dim, key_dim, values_per_key * value_dim wide
  const float* weight = nullptr;  // [conv_size, num_channels]
  DeltaShape shape;
  TokenPositions tokens;
  StateView state;
  float* out = nullptr;  // [T, num_channels]
};
void DeltaInputs(Stream& stream, const DeltaInputsArgs& args);

// out[t, h] for every value head, token by token: DeltaStep (runtime/ops/row_kernels.h) with decay = exp(-exp(a_log) *
// softplus(a + dt_bias)) and beta = sigmoid(b), on the state, which is zeros before the sequence's start; then the
// root- mean-square norm of the head's value_dim values times norm, and times silu(z), as RmsNormArgs has it.
// softplus(x) = ln(1 + exp(x)), x above 20.
struct GatedDeltaArgs {
  const float* qkv = nullptr;                        // [T, num_channels] of DeltaInputs
  HeadGroups z, b, a;                                // values_per_key * value_dim, values_per_key, values_per_key wide
  const float *a_log = nullptr, *dt_bias = nullptr;  // [num_value_heads]
  const float* norm = nullptr;                       // [value_dim]
  float norm_eps = 1e-6f;
  DeltaShape shape;
  TokenPositions tokens;
  StateView state;
  float* out = nullptr;  // [T, num_value_heads * value_dim]; zeros where there is no token
};
void GatedDelta(Stream& stream, const GatedDeltaArgs& args);

}  // namespace tokenferry

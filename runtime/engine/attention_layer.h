// The attention of a layer, from hidden states to hidden states: one function per AttentionKind, each in its file.
#pragma once

#include "core/device/device.h"
#include "core/formats/tensor.h"
#include "runtime/attention/attention_ops.h"
#include "runtime/engine/layer_ops.h"
#include "runtime/model/model_spec.h"
#include "runtime/model/weights.h"

namespace tokenferry {

// One layer's attention for the T tokens of a batch on this rank. Device memory.
struct AttentionStep {
  const AttentionSpec& spec;
  const LayerWeights& weights;
  float norm_eps = 0;        // of the layer's norms
  float residual_scale = 1;  // of what is added to `hidden`
  Compute compute = Compute::kBF16;
  const float* rope_table = nullptr;  // RopeArgs::cos_sin, rope_dim wide
  int64_t rope_dim = 0;
  const float* temperature_factors = nullptr;  // TemperatureArgs::factors, where the layer has a temperature
  TokenPositions tokens;
  CacheView cache;                       // of this layer
  CacheView index_keys;                  // of this layer, where it has an indexer
  StateView state;                       // of this layer
  int32_t* selected = nullptr;           // SelectKeysArgs::selected, of this layer or of the last one with an indexer
  MatrixView<float> key_scores;          // SelectKeysArgs::scores
  const int32_t* last_source = nullptr;  // [T] last position of its sequence's encoder input; null: there is no encoder
  RelativeBias bias;                     // of the layer's own scores
  MatrixView<float> hidden;              // [T, H] in and out: the layer's output is added
  MatrixView<float> normed;              // [T, H] scratch
  // On tensor cores: the inputs of projections, as they are multiplied. Both scratch, null elsewhere.
  MatrixView<BF16> rounded_normed;  // [T, H]
  BF16* rounded = nullptr;          // [T, WidestInput], what is not a norm of `hidden`
  float* workspace = nullptr;       // AttentionWorkspace floats
  SplitSums splits;                 // of max_tokens tokens and the layer's heads, where the device needs them

  ConstFloatMatrix inputs() const { return InputsOf(normed, rounded_normed); }
  MatrixView<BF16> Rounded(int64_t cols) const {
    return rounded == nullptr ? MatrixView<BF16>() : MakeMatrix<BF16>(rounded, tokens.num_tokens, cols);
  }
};
void LatentAttentionLayer(Stream& stream, const AttentionStep& step);
void GroupedAttentionLayer(Stream& stream, const AttentionStep& step);
void GatedDeltaLayer(Stream& stream, const AttentionStep& step);

// Attention to what an encoder has made of each sequence's input, whose keys and values WriteSource has left in
// step.cache.
void CrossAttentionLayer(Stream& stream, const AttentionStep& step);
// step.tokens are the inputs of encoders, step.normed what came of them; `hidden` is not looked at.
void WriteSource(Stream& stream, const AttentionStep& step);

// What all end with: hidden += residual_scale * (o_proj(out) + bias), `out` as projections read it; `normed` is free by
// then.
void AddAttention(Stream& stream, const AttentionStep& step, ConstFloatMatrix out);

// The one of them that the layer has.
void RunAttention(Stream& stream, const AttentionStep& step);
// Floats that a step of up to `max_tokens` tokens needs.
int64_t AttentionWorkspace(const AttentionSpec& spec, int64_t max_tokens);
// Columns of AttentionStep::rounded.
int64_t WidestInput(const AttentionSpec& spec);

}  // namespace tokenferry

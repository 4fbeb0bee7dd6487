#include "runtime/engine/attention_layer.h"

#include <algorithm>

#include "runtime/engine/layer_ops.h"
#include "runtime/engine/workspace.h"
#include "runtime/ops/elementwise_ops.h"

namespace tokenferry {

void RunAttention(Stream& stream, const AttentionStep& step) {
  switch (step.spec.kind) {
    case AttentionKind::kLatent:
      return LatentAttentionLayer(stream, step);
    case AttentionKind::kGrouped:
      return GroupedAttentionLayer(stream, step);
    case AttentionKind::kGatedDelta:
      return GatedDeltaLayer(stream, step);
  }
}

void AddAttention(Stream& stream, const AttentionStep& s, ConstFloatMatrix out) {
  const WeightView& o = s.weights[OutputRole(s.spec.kind)];
  const bool has_bias = s.spec.has_o_bias;
  if (s.residual_scale == 1) {
    Project(stream, out, o, s.hidden.data, s.compute, Accumulate::kYes);
    if (has_bias) AddBias(stream, {s.hidden, s.weights.vector(Role::kOBias)});
    return;
  }
  Project(stream, out, o, s.normed.data, s.compute);
  if (has_bias) AddBias(stream, {s.normed, s.weights.vector(Role::kOBias)});
  Add(stream, {s.hidden, s.normed, {}, s.residual_scale});
}

int64_t WidestInput(const AttentionSpec& a) {
  const int64_t output = a.kind == AttentionKind::kGatedDelta ? a.delta.values_size() : a.output_size();
  return std::max(output, a.q_lora_rank);
}

static int64_t IndexerWorkspace(const IndexerSpec& i, int64_t max_tokens) {
  if (i.kind != IndexerSpec::Kind::kOwn) return 0;
  return Workspace::Floats(max_tokens, {i.num_heads * i.head_dim, i.head_dim, i.num_heads});
}

int64_t AttentionWorkspace(const AttentionSpec& a, int64_t max_tokens) {
  const int64_t latents = a.num_heads * a.kv_lora_rank;
  switch (a.kind) {
    case AttentionKind::kLatent:
      return Workspace::Floats(max_tokens,
                               {a.q_lora_rank, a.query_size(), a.cache_row(), latents, latents, a.output_size()}) +
             IndexerWorkspace(a.indexer, max_tokens);
    case AttentionKind::kGrouped:
      return Workspace::Floats(max_tokens, {a.query_rows(), a.has_output_gate ? a.query_size() : 0, a.cache_first(),
                                            a.cache_second(), a.output_size()});
    case AttentionKind::kGatedDelta: {
      const DeltaShape& d = a.delta;
      return Workspace::Floats(max_tokens, {d.num_channels(), d.values_size(), d.num_value_heads, d.num_value_heads,
                                            d.num_channels(), d.values_size()});
    }
  }
  return 0;
}

}  // namespace tokenferry

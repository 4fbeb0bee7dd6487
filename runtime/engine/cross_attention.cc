// What a decoder takes from an encoder: grouped attention over the keys and values of the encoder's output.
#include "runtime/engine/attention_layer.h"
#include "runtime/engine/layer_ops.h"
#include "runtime/engine/workspace.h"

namespace tokenferry {

void WriteSource(Stream& stream, const AttentionStep& s) {
  const AttentionSpec& a = s.spec;
  const int64_t T = s.tokens.num_tokens;
  Workspace workspace(s.workspace);
  const auto key = workspace.Take(T, a.cache_first()), value = workspace.Take(T, a.cache_second());
  Project(stream, s.inputs(), s.weights[Role::kCrossK], key.data, s.compute);
  Project(stream, s.inputs(), s.weights[Role::kCrossV], value.data, s.compute);
  CacheWrite(stream, {key.data, key.stride, value.data, value.stride, s.tokens, s.cache});
}

void CrossAttentionLayer(Stream& stream, const AttentionStep& s) {
  const AttentionSpec& a = s.spec;
  const int64_t T = s.tokens.num_tokens;
  Workspace workspace(s.workspace);
  const auto query = workspace.Take(T, a.query_size()), out = workspace.Take(T, a.output_size());
  Norm(stream, s.hidden, s.weights[Role::kCrossNorm], s.normed, s.norm_eps, s.rounded_normed);
  Project(stream, s.inputs(), s.weights[Role::kCrossQ], query.data, s.compute);
  GroupedAttention(stream, {.q = query.data,
                            .heads = static_cast<int32_t>(a.num_heads),
                            .kv_heads = static_cast<int32_t>(a.num_kv_heads),
                            .head_dim = static_cast<int32_t>(a.head_dim),
                            .scale = a.scale,
                            .tokens = s.tokens,
                            .cache = s.cache,
                            .out = out.data,
                            .compute = s.compute,
                            .last_key = s.last_source,
                            .splits = s.splits});
  Project(stream, AsInputs(stream, out, s.Rounded(out.cols)), s.weights[Role::kCrossO], s.hidden.data, s.compute,
          Accumulate::kYes);
}

}  // namespace tokenferry

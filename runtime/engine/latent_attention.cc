// Multi-head latent attention in its absorbed form.
#include "runtime/engine/attention_layer.h"
#include "runtime/engine/layer_ops.h"
#include "runtime/engine/workspace.h"

namespace tokenferry {
namespace {

template <class T>
MatrixView<T> Columns(MatrixView<T> m, int64_t begin, int64_t count) {
  return {m.data + begin, m.rows, count, m.stride};
}

void Query(Stream& stream, const AttentionStep& s, MatrixView<float> latent, float* query) {
  if (s.spec.q_lora_rank == 0) return Project(stream, s.normed, s.weights[Role::kQ], query, s.compute);
  Project(stream, s.normed, s.weights[Role::kQA], latent.data, s.compute);
  Norm(stream, latent, s.weights[Role::kQANorm], latent, s.spec.latent_norm_eps);
  Project(stream, latent, s.weights[Role::kQB], query, s.compute);
}

}  // namespace

void LatentAttentionLayer(Stream& stream, const AttentionStep& s) {
  const AttentionSpec& a = s.spec;
  const int64_t T = s.tokens.num_tokens;
  const auto heads = static_cast<int32_t>(a.num_heads), nope = static_cast<int32_t>(a.nope_dim);
  const auto rope = static_cast<int32_t>(a.rope_dim), value = static_cast<int32_t>(a.value_dim);
  Workspace workspace(s.workspace);
  const auto query_latent = workspace.Take(T, a.q_lora_rank), query = workspace.Take(T, a.query_size());
  const auto key_value = workspace.Take(T, a.cache_row());
  const auto absorbed = workspace.Take(T, heads * a.kv_lora_rank), context = workspace.Take(T, heads * a.kv_lora_rank);
  const auto out = workspace.Take(T, a.output_size());
  const auto latent = Columns(key_value, 0, a.kv_lora_rank), rope_key = Columns(key_value, a.kv_lora_rank, rope);
  const WeightView& kv_b = s.weights[Role::kKvB];

  Norm(stream, s.hidden, s.weights, kInputNorm, s.normed, s.norm_eps);
  Query(stream, s, query_latent, query.data);
  Project(stream, s.normed, s.weights[Role::kKvA], key_value.data, s.compute);
  Norm(stream, latent, s.weights[Role::kKvANorm], latent, a.latent_norm_eps);

  Rotate(stream, {query.data + nope, query.stride, nope + rope, heads, rope, s.rope_table, s.tokens, a.rope_layout});
  Rotate(stream, {rope_key.data, rope_key.stride, 0, 1, rope, s.rope_table, s.tokens, a.rope_layout});
  CacheWrite(stream, {latent.data, latent.stride, rope_key.data, rope_key.stride, s.tokens, s.cache});

  AbsorbQuery(stream, {query.data, T, heads, nope, rope, value, kv_b, absorbed.data, s.compute});
  LatentAttention(stream,
                  {absorbed.data, query.data, heads, nope, rope, a.scale, s.tokens, s.cache, context.data, s.compute});
  ExpandValue(stream, {context.data, T, heads, nope, value, kv_b, out.data, s.compute});
  AddAttention(stream, s, out);
}

}  // namespace tokenferry

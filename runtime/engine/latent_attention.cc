// Multi-head latent attention in its absorbed form.
#include "runtime/attention/key_selection.h"
#include "runtime/engine/attention_layer.h"
#include "runtime/engine/layer_ops.h"
#include "runtime/engine/workspace.h"

namespace tokenferry {
namespace {

template <class T>
MatrixView<T> Columns(MatrixView<T> m, int64_t begin, int64_t count) {
  return {m.data + begin, m.rows, count, m.stride};
}

// Returns what the indexer's queries are made of, too.
ConstFloatMatrix Query(Stream& stream, const AttentionStep& s, MatrixView<float> latent, float* query) {
  if (s.spec.q_lora_rank == 0) {
    Project(stream, s.inputs(), s.weights[Role::kQ], query, s.compute);
    return {};
  }
  Project(stream, s.inputs(), s.weights[Role::kQA], latent.data, s.compute);
  const ConstFloatMatrix inputs =
      Norm(stream, latent, s.weights[Role::kQANorm], latent, s.spec.latent_norm_eps, s.Rounded(latent.cols));
  Project(stream, inputs, s.weights[Role::kQB], query, s.compute);
  return inputs;
}

// Which keys the layer's tokens see, into `selected`; the indexer's own keys go into the cache.
void RunIndexer(Stream& stream, const AttentionStep& s, ConstFloatMatrix query_latent, Workspace& workspace) {
  const IndexerSpec& i = s.spec.indexer;
  const int64_t T = s.tokens.num_tokens;
  const auto query = workspace.Take(T, i.num_heads * i.head_dim), key = workspace.Take(T, i.head_dim);
  const auto weight = workspace.Take(T, i.num_heads);
  const auto heads = static_cast<int32_t>(i.num_heads), rope = static_cast<int32_t>(s.rope_dim);
  Project(stream, query_latent, s.weights[Role::kIndexQB], query.data, s.compute);
  Project(stream, s.inputs(), s.weights[Role::kIndexK], key.data, s.compute);
  // An output per head: in f32, as a router.
  Project(stream, s.normed, s.weights[Role::kIndexWeights], weight.data, Compute::kF32);
  const WeightView& norm = s.weights[Role::kIndexKNorm];
  LayerNorm(stream,
            {key, norm.data, norm.dtype(), s.weights.vector(Role::kIndexKNormBias), s.spec.latent_norm_eps, key});
  Rotate(stream, {query.data, query.stride, i.head_dim, heads, rope, s.rope_table, s.tokens, i.rope_layout});
  Rotate(stream, {key.data, key.stride, 0, 1, rope, s.rope_table, s.tokens, i.rope_layout});
  CacheWrite(stream, {key.data, key.stride, nullptr, 0, s.tokens, s.index_keys});
  SelectKeys(stream, {.q = query.data,
                      .weight = weight.data,
                      .heads = heads,
                      .num_selected = i.num_selected,
                      .tokens = s.tokens,
                      .keys = s.index_keys,
                      .selected = s.selected,
                      .compute = s.compute,
                      .scores = s.key_scores});
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

  Norm(stream, s.hidden, s.weights, kInputNorm, s.normed, s.norm_eps, s.rounded_normed);
  const ConstFloatMatrix query_inputs = Query(stream, s, query_latent, query.data);
  Project(stream, s.inputs(), s.weights[Role::kKvA], key_value.data, s.compute);
  Norm(stream, latent, s.weights[Role::kKvANorm], latent, a.latent_norm_eps);

  Rotate(stream, {query.data + nope, query.stride, nope + rope, heads, rope, s.rope_table, s.tokens, a.rope_layout});
  Rotate(stream, {rope_key.data, rope_key.stride, 0, 1, rope, s.rope_table, s.tokens, a.rope_layout});
  CacheWrite(stream, {latent.data, latent.stride, rope_key.data, rope_key.stride, s.tokens, s.cache});

  AbsorbQuery(stream, {query.data, T, heads, nope, rope, value, kv_b, absorbed.data, s.compute});
  if (a.indexer.kind == IndexerSpec::Kind::kOwn) RunIndexer(stream, s, query_inputs, workspace);
  const bool is_sparse = a.indexer.kind != IndexerSpec::Kind::kNone;
  LatentAttention(stream, {absorbed.data, query.data, heads, nope, rope, a.scale, s.tokens, s.cache, context.data,
                           s.compute, is_sparse ? s.selected : nullptr, a.indexer.num_selected, s.splits});
  const MatrixView<BF16> rounded = s.Rounded(out.cols);
  ExpandValue(stream, {context.data, T, heads, nope, value, kv_b, out.data, s.compute, rounded.data});
  AddAttention(stream, s, InputsOf(out, rounded));
}

}  // namespace tokenferry

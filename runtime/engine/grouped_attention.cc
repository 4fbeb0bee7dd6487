// Grouped attention: query heads share key and value heads.
#include "runtime/engine/attention_layer.h"
#include "runtime/engine/layer_ops.h"
#include "runtime/engine/workspace.h"
#include "runtime/ops/elementwise_ops.h"

namespace tokenferry {
namespace {

// Queries, keys or values [T, heads * head_dim]: projection, bias, norm, limit.
struct Heads {
  Role weight, bias, norm;
};
constexpr Heads kQueries{Role::kQ, Role::kQBias, Role::kQNorm};
constexpr Heads kKeys{Role::kK, Role::kKBias, Role::kKNorm};
constexpr Heads kValues{Role::kV, Role::kVBias, Role::kVBias};  // values have no norm

// A row for each head.
MatrixView<float> PerHead(MatrixView<float> x, int64_t head_dim) {
  return MakeMatrix<float>(x.data, x.rows * (x.cols / head_dim), head_dim);
}

void ProjectHeads(Stream& stream, const AttentionStep& s, const Heads& roles, QkNorm norm, MatrixView<float> x) {
  const AttentionSpec& a = s.spec;
  Project(stream, s.inputs(), s.weights[roles.weight], x.data, s.compute);
  if (a.has_qkv_bias) AddBias(stream, {x, s.weights.vector(roles.bias)});
  if (norm == QkNorm::kProjection) Norm(stream, x, s.weights[roles.norm], x, s.norm_eps);
  if (norm == QkNorm::kHead) {
    const auto heads = PerHead(x, a.head_dim);
    Norm(stream, heads, s.weights[roles.norm], heads, s.norm_eps);
  }
  if (a.clip_qkv > 0) Clamp(stream, {x, a.clip_qkv});
}

// Queries [T, heads * head_dim]; where outputs have a gate, [T, heads, 2 * head_dim] is projected, and each head's norm
// takes its queries out of it.
void ProjectQueries(Stream& stream, const AttentionStep& s, MatrixView<float> projected, MatrixView<float> query) {
  const AttentionSpec& a = s.spec;
  if (!a.has_output_gate) return ProjectHeads(stream, s, kQueries, a.qk_norm, query);
  ProjectHeads(stream, s, kQueries, QkNorm::kNone, projected);
  const int64_t num_rows = projected.rows * a.num_heads;
  Norm(stream, MatrixView<const float>{projected.data, num_rows, a.head_dim, 2 * a.head_dim}, s.weights[Role::kQNorm],
       PerHead(query, a.head_dim), s.norm_eps);
}

void GateOutput(Stream& stream, const AttentionStep& s, MatrixView<float> projected, MatrixView<float> out) {
  const AttentionSpec& a = s.spec;
  if (!a.has_output_gate) return;
  const auto heads = PerHead(out, a.head_dim);
  Gate(stream, {heads, {projected.data + a.head_dim, heads.rows, a.head_dim, 2 * a.head_dim}});
}

void RotateHeads(Stream& stream, const AttentionStep& s, MatrixView<float> x) {
  const auto head_dim = s.spec.head_dim;
  Rotate(stream, {x.data, x.stride, head_dim, static_cast<int32_t>(x.cols / head_dim), static_cast<int32_t>(s.rope_dim),
                  s.rope_table, s.tokens, s.spec.rope_layout});
}

}  // namespace

void GroupedAttentionLayer(Stream& stream, const AttentionStep& s) {
  const AttentionSpec& a = s.spec;
  const int64_t T = s.tokens.num_tokens;
  Workspace workspace(s.workspace);
  const auto projected = workspace.Take(T, a.query_rows());
  const auto query = a.has_output_gate ? workspace.Take(T, a.query_size()) : projected;
  const auto key = workspace.Take(T, a.cache_first()), value = workspace.Take(T, a.cache_second());
  const auto out = workspace.Take(T, a.output_size());

  Norm(stream, s.hidden, s.weights, kInputNorm, s.normed, s.norm_eps, s.rounded_normed);
  ProjectQueries(stream, s, projected, query);
  ProjectHeads(stream, s, kKeys, a.qk_norm, key);
  ProjectHeads(stream, s, kValues, QkNorm::kNone, value);
  if (a.rotation == Rotation::kRotary) {
    RotateHeads(stream, s, query);
    RotateHeads(stream, s, key);
  }
  if (a.qk_norm == QkNorm::kUnit) {
    for (const auto& heads : {PerHead(query, a.head_dim), PerHead(key, a.head_dim)}) {
      RmsNorm(stream, {.x = heads, .eps = s.norm_eps, .out = heads});
    }
  }
  if (a.temperature.scale != 0) {
    ApplyTemperature(stream, {query, s.temperature_factors, a.temperature.period, s.tokens});
  }
  CacheWrite(stream, {key.data, key.stride, value.data, value.stride, s.tokens, s.cache});

  GroupedAttention(stream, {.q = query.data,
                            .heads = static_cast<int32_t>(a.num_heads),
                            .kv_heads = static_cast<int32_t>(a.num_kv_heads),
                            .head_dim = static_cast<int32_t>(a.head_dim),
                            .scale = a.scale,
                            .keys = a.keys,
                            .sinks = s.weights.vector(Role::kSinks),
                            .tokens = s.tokens,
                            .cache = s.cache,
                            .out = out.data,
                            .compute = s.compute,
                            .last_key = a.sees_all ? s.last_source : nullptr,
                            .bias = s.bias,
                            .splits = s.splits});
  GateOutput(stream, s, projected, out);
  AddAttention(stream, s, AsInputs(stream, out, s.Rounded(out.cols)));
}

}  // namespace tokenferry

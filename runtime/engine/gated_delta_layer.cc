// A gated delta net: projections, a short convolution, the delta rule.
#include "runtime/attention/gated_delta.h"
#include "runtime/engine/attention_layer.h"
#include "runtime/engine/layer_ops.h"
#include "runtime/engine/workspace.h"

namespace tokenferry {
namespace {

struct DeltaParts {
  HeadGroups q, k, v, z, b, a;
};

MatrixView<float> ProjectNormed(Stream& stream, const AttentionStep& s, Role role, Workspace& workspace) {
  const WeightView& w = s.weights[role];
  const auto out = workspace.Take(s.tokens.num_tokens, w.rows);
  Project(stream, s.inputs(), w, out.data, s.compute);
  return out;
}

// DeltaProjections::kApart: queries, keys and values of all heads one after the other, and so on.
DeltaParts ProjectApart(Stream& stream, const AttentionStep& s, Workspace& workspace) {
  const DeltaShape& d = s.spec.delta;
  const int64_t keys = d.num_key_heads * d.key_dim, r = d.values_per_key();
  const auto qkv = ProjectNormed(stream, s, Role::kDeltaQkv, workspace);
  const auto z = ProjectNormed(stream, s, Role::kDeltaZ, workspace);
  const auto b = ProjectNormed(stream, s, Role::kDeltaB, workspace);
  const auto a = ProjectNormed(stream, s, Role::kDeltaA, workspace);
  return {.q = {qkv.data, qkv.stride, d.key_dim},
          .k = {qkv.data + keys, qkv.stride, d.key_dim},
          .v = {qkv.data + 2 * keys, qkv.stride, r * d.value_dim},
          .z = {z.data, z.stride, r * d.value_dim},
          .b = {b.data, b.stride, r},
          .a = {a.data, a.stride, r}};
}

// DeltaProjections::kGrouped: query, key, values and gates of a key head, then those of the next; betas and decays
// alike.
DeltaParts ProjectGrouped(Stream& stream, const AttentionStep& s, Workspace& workspace) {
  const DeltaShape& d = s.spec.delta;
  const int64_t r = d.values_per_key(), values = r * d.value_dim, group = 2 * d.key_dim + 2 * values;
  const auto qkvz = ProjectNormed(stream, s, Role::kDeltaQkvz, workspace);
  const auto ba = ProjectNormed(stream, s, Role::kDeltaBa, workspace);
  return {.q = {qkvz.data, qkvz.stride, group},
          .k = {qkvz.data + d.key_dim, qkvz.stride, group},
          .v = {qkvz.data + 2 * d.key_dim, qkvz.stride, group},
          .z = {qkvz.data + 2 * d.key_dim + values, qkvz.stride, group},
          .b = {ba.data, ba.stride, 2 * r},
          .a = {ba.data + r, ba.stride, 2 * r}};
}

}  // namespace

void GatedDeltaLayer(Stream& stream, const AttentionStep& s) {
  const DeltaShape& d = s.spec.delta;
  const int64_t T = s.tokens.num_tokens;
  Workspace workspace(s.workspace);
  Norm(stream, s.hidden, s.weights, kInputNorm, s.normed, s.norm_eps, s.rounded_normed);
  const DeltaParts parts = s.spec.delta_projections == DeltaProjections::kApart ? ProjectApart(stream, s, workspace)
                                                                                : ProjectGrouped(stream, s, workspace);
  const auto qkv = workspace.Take(T, d.num_channels()), out = workspace.Take(T, d.values_size());
  DeltaInputs(stream, {.q = parts.q,
                       .k = parts.k,
                       .v = parts.v,
                       .weight = s.weights.vector(Role::kDeltaConv),
                       .shape = d,
                       .tokens = s.tokens,
                       .state = s.state,
                       .out = qkv.data});
  GatedDelta(stream, {.qkv = qkv.data,
                      .z = parts.z,
                      .b = parts.b,
                      .a = parts.a,
                      .a_log = s.weights.vector(Role::kDeltaALog),
                      .dt_bias = s.weights.vector(Role::kDeltaDtBias),
                      .norm = s.weights.vector(Role::kDeltaNorm),
                      .norm_eps = s.norm_eps,
                      .shape = d,
                      .tokens = s.tokens,
                      .state = s.state,
                      .out = out.data});
  AddAttention(stream, s, AsInputs(stream, out, s.Rounded(out.cols)));
}

}  // namespace tokenferry

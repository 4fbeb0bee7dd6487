#include "runtime/model/weight_role.h"

#include "core/check.h"

namespace tokenferry {
namespace {

constexpr RoleInfo kRoles[kNumRoles] = {
    {Role::kEmbedTokens, "model.embed_tokens.weight", ModelPart::kEmbedding, Storage::kPlain},
    {Role::kFinalNorm, "model.norm.weight", ModelPart::kNorm, Storage::kPlain},
    {Role::kFinalNormBias, "model.norm.bias", ModelPart::kNorm, Storage::kF32},
    {Role::kLmHead, "lm_head.weight", ModelPart::kHead, Storage::kPlain},
    {Role::kLmHeadBias, "lm_head.bias", ModelPart::kHead, Storage::kF32},
    {Role::kEncoderNorm, "encoder.final_layer_norm.weight", ModelPart::kNorm, Storage::kPlain},
    {Role::kInputNorm, "input_layernorm.weight", ModelPart::kNorm, Storage::kPlain},
    {Role::kInputNormBias, "input_layernorm.bias", ModelPart::kNorm, Storage::kF32},
    {Role::kPostNorm, "post_attention_layernorm.weight", ModelPart::kNorm, Storage::kPlain},
    {Role::kPostNormBias, "post_attention_layernorm.bias", ModelPart::kNorm, Storage::kF32},
    {Role::kQ, "self_attn.q_proj.weight", ModelPart::kAttention, Storage::kQuantised},
    {Role::kO, "self_attn.o_proj.weight", ModelPart::kAttention, Storage::kQuantised},
    {Role::kQA, "self_attn.q_a_proj.weight", ModelPart::kAttention, Storage::kQuantised},
    {Role::kQANorm, "self_attn.q_a_layernorm.weight", ModelPart::kNorm, Storage::kPlain},
    {Role::kQB, "self_attn.q_b_proj.weight", ModelPart::kAttention, Storage::kQuantised},
    {Role::kKvA, "self_attn.kv_a_proj_with_mqa.weight", ModelPart::kAttention, Storage::kQuantised},
    {Role::kKvANorm, "self_attn.kv_a_layernorm.weight", ModelPart::kNorm, Storage::kPlain},
    {Role::kKvB, "self_attn.kv_b_proj.weight", ModelPart::kAttention, Storage::kQuantised},
    {Role::kIndexQB, "self_attn.indexer.wq_b.weight", ModelPart::kAttention, Storage::kQuantised},
    {Role::kIndexK, "self_attn.indexer.wk.weight", ModelPart::kAttention, Storage::kQuantised},
    {Role::kIndexKNorm, "self_attn.indexer.k_norm.weight", ModelPart::kNorm, Storage::kPlain},
    {Role::kIndexKNormBias, "self_attn.indexer.k_norm.bias", ModelPart::kNorm, Storage::kF32},
    {Role::kIndexWeights, "self_attn.indexer.weights_proj.weight", ModelPart::kAttention, Storage::kPlain},
    {Role::kK, "self_attn.k_proj.weight", ModelPart::kAttention, Storage::kQuantised},
    {Role::kV, "self_attn.v_proj.weight", ModelPart::kAttention, Storage::kQuantised},
    {Role::kQBias, "self_attn.q_proj.bias", ModelPart::kAttention, Storage::kF32},
    {Role::kKBias, "self_attn.k_proj.bias", ModelPart::kAttention, Storage::kF32},
    {Role::kVBias, "self_attn.v_proj.bias", ModelPart::kAttention, Storage::kF32},
    {Role::kOBias, "self_attn.o_proj.bias", ModelPart::kAttention, Storage::kF32},
    {Role::kQNorm, "self_attn.q_norm.weight", ModelPart::kNorm, Storage::kPlain},
    {Role::kKNorm, "self_attn.k_norm.weight", ModelPart::kNorm, Storage::kPlain},
    {Role::kSinks, "self_attn.sinks", ModelPart::kAttention, Storage::kF32},
    {Role::kDeltaQkv, "linear_attn.in_proj_qkv.weight", ModelPart::kAttention, Storage::kQuantised},
    {Role::kDeltaZ, "linear_attn.in_proj_z.weight", ModelPart::kAttention, Storage::kQuantised},
    {Role::kDeltaB, "linear_attn.in_proj_b.weight", ModelPart::kAttention, Storage::kQuantised},
    {Role::kDeltaA, "linear_attn.in_proj_a.weight", ModelPart::kAttention, Storage::kQuantised},
    {Role::kDeltaQkvz, "linear_attn.in_proj_qkvz.weight", ModelPart::kAttention, Storage::kQuantised},
    {Role::kDeltaBa, "linear_attn.in_proj_ba.weight", ModelPart::kAttention, Storage::kQuantised},
    {Role::kDeltaConv, "linear_attn.conv1d.weight", ModelPart::kAttention, Storage::kF32},
    {Role::kDeltaALog, "linear_attn.A_log", ModelPart::kAttention, Storage::kF32},
    {Role::kDeltaDtBias, "linear_attn.dt_bias", ModelPart::kAttention, Storage::kF32},
    {Role::kDeltaNorm, "linear_attn.norm.weight", ModelPart::kNorm, Storage::kF32},
    {Role::kDeltaOut, "linear_attn.out_proj.weight", ModelPart::kAttention, Storage::kQuantised},
    {Role::kRelativeBias, "layer.0.SelfAttention.relative_attention_bias.weight", ModelPart::kAttention, Storage::kF32},
    {Role::kCrossNorm, "layer.1.layer_norm.weight", ModelPart::kNorm, Storage::kPlain},
    {Role::kCrossQ, "layer.1.EncDecAttention.q.weight", ModelPart::kAttention, Storage::kQuantised},
    {Role::kCrossK, "layer.1.EncDecAttention.k.weight", ModelPart::kAttention, Storage::kQuantised},
    {Role::kCrossV, "layer.1.EncDecAttention.v.weight", ModelPart::kAttention, Storage::kQuantised},
    {Role::kCrossO, "layer.1.EncDecAttention.o.weight", ModelPart::kAttention, Storage::kQuantised},
    {Role::kDenseGate, "mlp.gate_proj.weight", ModelPart::kDenseFfn, Storage::kQuantised},
    {Role::kDenseUp, "mlp.up_proj.weight", ModelPart::kDenseFfn, Storage::kQuantised},
    {Role::kDenseDown, "mlp.down_proj.weight", ModelPart::kDenseFfn, Storage::kQuantised},
    {Role::kRouter, "mlp.gate.weight", ModelPart::kRouter, Storage::kPlain},
    {Role::kRouterBias, "mlp.gate.bias", ModelPart::kRouter, Storage::kF32},
    {Role::kChoiceBias, "mlp.gate.e_score_correction_bias", ModelPart::kRouter, Storage::kF32},
    {Role::kSharedGate, "mlp.shared_experts.gate_proj.weight", ModelPart::kSharedExpert, Storage::kQuantised},
    {Role::kSharedUp, "mlp.shared_experts.up_proj.weight", ModelPart::kSharedExpert, Storage::kQuantised},
    {Role::kSharedDown, "mlp.shared_experts.down_proj.weight", ModelPart::kSharedExpert, Storage::kQuantised},
    {Role::kSharedScore, "mlp.shared_expert_gate.weight", ModelPart::kSharedExpert, Storage::kPlain},
    {Role::kExpertGate, "mlp.experts.$0.gate_proj.weight", ModelPart::kRoutedExpert, Storage::kQuantised},
    {Role::kExpertUp, "mlp.experts.$0.up_proj.weight", ModelPart::kRoutedExpert, Storage::kQuantised},
    {Role::kExpertDown, "mlp.experts.$0.down_proj.weight", ModelPart::kRoutedExpert, Storage::kQuantised},
    {Role::kExpertGateBias, "mlp.experts.$0.gate_proj.bias", ModelPart::kRoutedExpert, Storage::kF32},
    {Role::kExpertUpBias, "mlp.experts.$0.up_proj.bias", ModelPart::kRoutedExpert, Storage::kF32},
    {Role::kExpertDownBias, "mlp.experts.$0.down_proj.bias", ModelPart::kRoutedExpert, Storage::kF32},
};

}  // namespace

absl::string_view ModelPartName(ModelPart part) {
  constexpr absl::string_view kNames[kNumModelParts] = {"embedding",      "attention",      "dense FFN", "router",
                                                        "shared experts", "routed experts", "norms",     "head"};
  return kNames[static_cast<int>(part)];
}

const RoleInfo& InfoOf(Role role) {
  const RoleInfo& info = kRoles[static_cast<int>(role)];
  TF_CHECK(info.role == role);
  return info;
}

}  // namespace tokenferry

// What a tensor of a model is for.
#pragma once

#include <cstdint>

#include "absl/strings/string_view.h"

namespace tokenferry {

enum class ModelPart : uint8_t {
  kEmbedding,
  kAttention,
  kDenseFfn,
  kRouter,
  kSharedExpert,
  kRoutedExpert,
  kNorm,
  kHead
};
inline constexpr int kNumModelParts = 8;
absl::string_view ModelPartName(ModelPart part);  // "routed experts"

// Shapes: tensor_plan.cc's visitor. The names are those of the first family that had them.
enum class Role : uint8_t {
  // Of the model.
  kEmbedTokens,  // [V, H]
  kFinalNorm,    // [H]
  kFinalNormBias,
  kLmHead,       // [V, H]; absent when tied
  kLmHeadBias,   // [V]
  kEncoderNorm,  // of what an encoder makes [H]
  // Of a layer.
  kInputNorm,  // [H]
  kInputNormBias,
  kPostNorm,  // post_attention_layernorm [H]
  kPostNormBias,
  kQ,  // q_proj [query_size, H]
  kO,  // o_proj [H, output_size]
  // Latent attention.
  kQA,       // q_a_proj [q_lora, H]
  kQANorm,   // [q_lora]
  kQB,       // q_b_proj [query_size, q_lora]
  kKvA,      // kv_a_proj_with_mqa [r + rope, H]
  kKvANorm,  // [r]
  kKvB,      // kv_b_proj [heads * (nope + value), r]
  // An indexer.
  kIndexQB,         // [heads * head_dim, q_lora]
  kIndexK,          // [head_dim, H]
  kIndexKNorm,      // [head_dim]
  kIndexKNormBias,  //
  kIndexWeights,    // [heads, H]
  // Grouped attention.
  kK,  // k_proj [kv_heads * head_dim, H]
  kV,
  kQBias,  // [rows of q_proj]
  kKBias,
  kVBias,
  kOBias,  // [H]
  kQNorm,  // [head_dim], or [rows of q_proj]
  kKNorm,
  kSinks,  // [heads]
  // Gated delta nets.
  kDeltaQkv,      // in_proj_qkv [num_channels, H]
  kDeltaZ,        // in_proj_z [values_size, H]
  kDeltaB,        // in_proj_b [value heads, H]
  kDeltaA,        // in_proj_a [value heads, H]
  kDeltaQkvz,     // in_proj_qkvz [num_channels + values_size, H], by key head
  kDeltaBa,       // in_proj_ba [2 * value heads, H], by key head
  kDeltaConv,     // conv1d [taps, num_channels]; the files have [num_channels, 1, taps]
  kDeltaALog,     // [value heads]
  kDeltaDtBias,   // [value heads]
  kDeltaNorm,     // [value_dim]
  kDeltaOut,      // out_proj [H, values_size]
  kRelativeBias,  // [buckets, heads]
  // Attention of a decoder to what an encoder has made.
  kCrossNorm,  // [H]
  kCrossQ,     // as kQ, kK, kV and kO
  kCrossK,
  kCrossV,
  kCrossO,
  // A dense network.
  kDenseGate,  // [I, H]
  kDenseUp,    // [I, H]
  kDenseDown,  // [H, I]
  // Experts.
  kRouter,       // [E, H]
  kRouterBias,   // [E], of the logits
  kChoiceBias,   // e_score_correction_bias [E]
  kSharedGate,   // [shared_intermediate, H]
  kSharedUp,     //
  kSharedDown,   // [H, shared_intermediate]
  kSharedScore,  // shared_expert_gate [1, H]
  kExpertGate,   // [I, H], per expert
  kExpertUp,
  kExpertDown,      // [H, I]
  kExpertGateBias,  // [I]
  kExpertUpBias,
  kExpertDownBias,  // [H]
};
inline constexpr int kNumRoles = static_cast<int>(Role::kExpertDownBias) + 1;

// How a role may be stored, and what memory then holds.
enum class Storage : uint8_t {
  kPlain,      // F32 or BF16 as it is; F16 widened to F32
  kQuantised,  // the same, or FP8 with scales
  kF32,        // widened to F32
};

struct RoleInfo {
  Role role;
  const char* name;  // behind "model.layers.N.", with $0 for the expert; whole for what is of no layer
  ModelPart part;
  Storage storage;
};
const RoleInfo& InfoOf(Role role);

}  // namespace tokenferry

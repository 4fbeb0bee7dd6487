// Every tensor that a model needs, derived from its config.json, and the check of a checkpoint against it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "core/formats/dtype.h"
#include "core/status.h"
#include "runtime/checkpoint/checkpoint.h"
#include "runtime/model/model_config.h"

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

// What a tensor is for. The names are those of the checkpoint.
enum class WeightKind : uint8_t {
  kEmbedTokens,  // [V, H]
  kInputNorm,    // [H]
  kQA,           // q_a_proj [q_lora, H]
  kQANorm,       // [q_lora]
  kQB,           // q_b_proj [heads * (nope + rope), q_lora]
  kQ,            // q_proj [heads * (nope + rope), H]
  kKvA,          // kv_a_proj_with_mqa [r + rope, H]
  kKvANorm,      // [r]
  kKvB,          // kv_b_proj [heads * (nope + v), r]
  kO,            // o_proj [H, heads * v]
  kPostNorm,     // post_attention_layernorm [H]
  kDenseGate,    // [I, H]
  kDenseUp,      // [I, H]
  kDenseDown,    // [H, I]
  kRouter,       // mlp.gate.weight [E, H]
  kRouterBias,   // e_score_correction_bias [E]
  kSharedGate,   // [n_shared * I, H]
  kSharedUp,
  kSharedDown,
  kExpertGate,  // [I, H], per expert
  kExpertUp,
  kExpertDown,
  kFinalNorm,  // [H]
  kLmHead,     // [V, H]; absent when tied
};

struct TensorSpec {
  WeightKind kind;
  int32_t layer = -1;   // -1: belongs to no layer
  int32_t expert = -1;  // routed experts only
  std::string name;
  std::vector<int64_t> shape;  // [rows, cols] or [size]
  DType dtype = DType::kBF16;  // kF32, kBF16 or kF8E4M3. As stored, or as config.json implies

  ModelPart part() const;
  int64_t num_elements() const;
  bool has_scales() const { return dtype == DType::kF8E4M3; }
  int64_t data_bytes() const { return num_elements() * DTypeBytes(dtype); }
  std::string scale_name() const { return name + "_scale_inv"; }
  std::vector<int64_t> scale_shape(int32_t block) const;  // [ceil(rows / block), ceil(cols / block)], F32
  int64_t scale_bytes(int32_t block) const;               // 0 without scales
};

struct TensorPlan {
  ModelConfig config;
  std::vector<TensorSpec> tensors;  // by layer, routed experts by index
};

// All tensors of the model, with the types that config.json implies: FP8 for the projections of attention and experts
// when it is quantised, else config.dtype.
TensorPlan PlanTensors(const ModelConfig& config);

struct CheckedPlan {
  TensorPlan plan;          // with the types stored in the checkpoint
  int64_t num_skipped = 0;  // known and not needed: multi-token-prediction modules, inv_freq, a tied head
  int64_t skipped_bytes = 0;
  int64_t num_skipped_params = 0;          // elements of those, without scales
  int64_t num_unknown = 0;                 // neither known nor needed: worth a warning
  std::vector<std::string> unknown_names;  // the first few of them
  std::vector<std::string> warnings;       // what is wrong with tensors that are not needed; a few lines
};

// Looks at headers only. Refuses, naming file, tensor, what is there and what should be: missing tensors, wrong shapes,
// types that cannot be used, FP8 without its scales or without a quantization_config, and tensors with a fault
// (Checkpoint::FaultOf). The faults of tensors that nobody needs are warnings.
absl::StatusOr<CheckedPlan> CheckCheckpoint(const ModelConfig& config, const Checkpoint& checkpoint);

// Unimplemented, naming two tensors, when routed experts of one layer are not all stored in one type. CPUs look at each
// expert; a GPU's kernel is chosen for all of them (WeightArray).
absl::Status CheckExpertsAlike(const TensorPlan& plan);

}  // namespace tokenferry

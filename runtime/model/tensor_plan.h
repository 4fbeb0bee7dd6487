// Every tensor that a model needs, derived from its description, and the check of a checkpoint against it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "core/status.h"
#include "runtime/checkpoint/checkpoint.h"
#include "runtime/model/model_spec.h"
#include "runtime/model/stored_tensor.h"
#include "runtime/model/weight_role.h"

namespace tokenferry {

struct TensorPlan {
  ModelSpec model;
  std::vector<TensorSpec> tensors;  // by layer, routed experts by index
};

// A tensor of the model: what it is for, its shape, and for routed experts which one (else -1).
using TensorVisitor = absl::FunctionRef<void(Role role, std::vector<int64_t> shape, int32_t expert)>;
// The same model with its experts as ModelSpec::fused_instead, which must be there, says. Names are then those that
// transformers 5 has: experts.N.gate_proj.weight one by one, experts.gate_up_proj [E, 2I, H] together, and a router
// like Mixtral's beside them in the layer's mlp.
ModelSpec WithExpertsInstead(ModelSpec model);

// The one place that knows which tensors a layer has.
void VisitLayer(const ModelSpec& model, const LayerSpec& layer, TensorVisitor visit);

// All tensors of the model, with the types that config.json implies: projections as its quantization_config says but
// for those that it ignores, everything else in its dtype. InvalidArgument: whether it ignores one cannot be told
// (NamePatterns).
absl::StatusOr<TensorPlan> PlanTensors(const ModelSpec& model);

struct CheckedPlan {
  TensorPlan plan;  // with the types stored in the checkpoint
  // Known and not needed: multi-token-prediction modules, inv_freq, a tied head, towers for images.
  int64_t num_skipped = 0;
  int64_t skipped_bytes = 0;
  int64_t num_skipped_params = 0;          // elements of those, packed ones each; scales and zero points are none
  int64_t num_unknown = 0;                 // neither known nor needed: worth a warning
  std::vector<std::string> unknown_names;  // the first few of them
  std::vector<std::string> warnings;       // what is wrong with tensors that are not needed; a few lines
};

// Looks at headers only. Refuses, naming file, tensor, what is there and what should be: missing tensors, wrong shapes,
// types that cannot be used, experts stored in both ways that the model allows, quantised tensors without their scales
// or without a quantization_config or although that ignores them, scales of tensors that are not quantised, tensors
// stored twice, and tensors with a fault (Checkpoint::FaultOf). The faults of tensors that nobody needs are warnings.
absl::StatusOr<CheckedPlan> CheckCheckpoint(const ModelSpec& model, const Checkpoint& checkpoint);

// What a GPU's kernels need besides: Unimplemented, naming two tensors, when routed experts of one layer are not all in
// one format. CPUs look at each expert; a GPU's kernel is chosen for all of them (WeightArray).
absl::Status CheckGpuFormats(const TensorPlan& plan);

}  // namespace tokenferry

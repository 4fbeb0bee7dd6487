// Counts of a model's parameters and bytes, for `tokenferry inspect` and `plan`. From a TensorPlan alone: no weights.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <vector>

#include "core/formats/dtype.h"
#include "core/moe/placement.h"
#include "runtime/model/tensor_plan.h"

namespace tokenferry {

struct PartSummary {
  int64_t num_params = 0;         // elements of weights; scales are no parameters
  int64_t num_active_params = 0;  // of those, what one token meets: all, but for routed experts top_k of them per layer
  int64_t num_bytes = 0;          // in the checkpoint, scales included
};

struct ModelSummary {
  std::array<PartSummary, kNumModelParts> parts;  // by ModelPart
  std::map<DType, int64_t> bytes_by_dtype;        // scales count as F32
  int64_t num_moe_layers = 0;

  const PartSummary& part(ModelPart p) const { return parts[static_cast<int>(p)]; }
  // Everything but multi-token-prediction modules. Embedding and head count in full, in both numbers (DeepSeek's own
  // figures for active parameters leave the embedding out: subtract part(ModelPart::kEmbedding)).
  PartSummary Total() const;
};

ModelSummary SummarizeModel(const TensorPlan& plan);

// Bytes of weights and scales that each rank keeps in memory: its routed experts, and all the rest. `placement` is for
// plan.model.moe.num_experts experts.
std::vector<int64_t> BytesPerRank(const TensorPlan& plan, const Placement& placement);

// Bytes of the buffer that holds the stored matrices of one expert while LoadWeights converts them: on each rank the
// largest of its experts', without alignment; 0: it converts none.
std::vector<int64_t> ConversionBytesPerRank(const TensorPlan& plan, const Placement& placement);

}  // namespace tokenferry

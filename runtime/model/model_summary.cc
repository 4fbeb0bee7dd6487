#include "runtime/model/model_summary.h"

#include <algorithm>
#include <utility>

#include "core/check.h"

namespace tokenferry {

PartSummary ModelSummary::Total() const {
  PartSummary total;
  for (const PartSummary& p : parts) {
    total.num_params += p.num_params;
    total.num_active_params += p.num_active_params;
    total.num_bytes += p.num_bytes;
  }
  return total;
}

ModelSummary SummarizeModel(const TensorPlan& plan) {
  ModelSummary summary;
  const ModelSpec& model = plan.model;
  for (const TensorSpec& spec : plan.tensors) {
    PartSummary& part = summary.parts[static_cast<int>(spec.part())];
    part.num_params += spec.num_elements();
    // All experts of a layer have one shape, so the first top_k stand for any top_k.
    if (spec.expert < model.moe.router.top_k) part.num_active_params += spec.num_elements();
    part.num_bytes += spec.stored_bytes();
    for (const StoredTensor& tensor : spec.stored) summary.bytes_by_dtype[tensor.dtype] += tensor.num_bytes();
    if (spec.role == Role::kRouter) ++summary.num_moe_layers;
  }
  return summary;
}

std::vector<int64_t> BytesPerRank(const TensorPlan& plan, const Placement& placement) {
  TF_CHECK_EQ(placement.num_experts(), plan.model.moe.num_experts);
  int64_t everywhere = 0;
  std::vector<int64_t> per_rank(placement.num_ranks(), 0);
  for (const TensorSpec& spec : plan.tensors) {
    const int64_t num_bytes = spec.memory_bytes().total();
    if (spec.expert < 0) {
      everywhere += num_bytes;
      continue;
    }
    for (const auto& location : placement.locations(ExpertId(spec.expert))) per_rank[location.rank.value] += num_bytes;
  }
  for (int64_t& num_bytes : per_rank) num_bytes += everywhere;
  return per_rank;
}

std::vector<int64_t> ConversionBytesPerRank(const TensorPlan& plan, const Placement& placement) {
  TF_CHECK_EQ(placement.num_experts(), plan.model.moe.num_experts);
  std::map<std::pair<int32_t, int32_t>, int64_t> stored;  // by layer and expert
  for (const TensorSpec& spec : plan.tensors) {
    if (!spec.is_converted()) continue;
    stored[{spec.layer, spec.expert}] += BytesOf(spec.stored_format, spec.rows(), spec.cols()).total();
  }
  std::vector<int64_t> per_rank(placement.num_ranks(), 0);
  for (const auto& [layer_and_expert, num_bytes] : stored) {
    for (const auto& location : placement.locations(ExpertId(layer_and_expert.second))) {
      int64_t& most = per_rank[location.rank.value];
      most = std::max(most, num_bytes);
    }
  }
  return per_rank;
}

}  // namespace tokenferry

#include "runtime/engine/memory_plan.h"

#include "runtime/model/model_summary.h"

namespace tokenferry {

std::vector<RankMemory> PlanMemory(const TensorPlan& plan, const Placement& placement, const EngineOptions& options,
                                   DeviceKind device) {
  const KvCacheOptions cache = Engine::CacheOptions(plan.model, options);
  const RankMemory same{
      .cache = KvCache::NumBytes(cache),
      .activations = Transformer::ActivationBytes(plan.model, options, device),
      .logits = LogitRows::NumBytes(device, plan.model.vocab_size, Engine::MostLogitRows(options, device)),
  };
  const std::vector<int64_t> weights = BytesPerRank(plan, placement);
  const std::vector<int64_t> conversion = ConversionBytesPerRank(plan, placement);
  int64_t elsewhere = 0;
  for (const TensorSpec& spec : plan.tensors) {
    if (spec.expert < 0) elsewhere += spec.memory_bytes().total();
  }
  std::vector<RankMemory> per_rank(weights.size(), same);
  for (size_t r = 0; r < weights.size(); ++r) {
    per_rank[r].weights = weights[r];
    per_rank[r].experts = weights[r] - elsewhere;
    if (device == DeviceKind::kCpu) per_rank[r].conversion = conversion[r];  // a GPU's are converted by the host
  }
  return per_rank;
}

}  // namespace tokenferry

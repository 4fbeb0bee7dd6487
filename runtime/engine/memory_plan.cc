#include "runtime/engine/memory_plan.h"

#include "runtime/model/model_summary.h"

namespace tokenferry {

RankMemory& RankMemory::operator+=(const RankMemory& other) {
  for (const MemoryPart& part : kMemoryParts) this->*part.bytes += other.*part.bytes;
  experts += other.experts;
  exchange_growth += other.exchange_growth;
  conversion += other.conversion;
  return *this;
}

std::vector<RankMemory> PlanMemory(const TensorPlan& plan, const Placement& placement, const EngineOptions& options,
                                   const Topology& topology, DeviceKind device) {
  const KvCacheOptions cache = Engine::CacheOptions(plan.model, options);
  const ExchangeMemory exchange = Transformer::ExchangeBytes(plan.model, options, placement, topology, device);
  const RankMemory same{
      .cache = KvCache::NumBytes(cache),
      .activations = Transformer::ActivationBytes(plan.model, options, device),
      .logits = LogitRows::NumBytes(device, plan.model.vocab_size, Engine::MostLogitRows(options, device)),
      .exchange = exchange.at_start,
      .exchange_growth = exchange.most - exchange.at_start,
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

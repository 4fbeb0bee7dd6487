// One Mixture-of-Experts layer, expert-parallel over all ranks: route, plan, dispatch, experts, combine.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "comm/exchange.h"
#include "core/device/growing_buffer.h"
#include "core/placement.h"
#include "experts/overflow.h"
#include "runtime/model/model_config.h"
#include "runtime/model/weights.h"

namespace tokenferry {

// Sees this rank's plan of every exchange before it is executed; null: nobody looks.
using PlanObserver = std::function<void(const CallSite&, const ExchangePlan&)>;

struct MoeOptions {
  Compute compute = Compute::kBF16;
  Overflow overflow = Overflow::kDropless;
  double capacity_factor = 1.0;  // kCapacity
  int64_t max_tokens = 0;        // most tokens of this rank in a step
  ExchangePath path = ExchangePath::kAuto;
  PlanObserver on_plan;
};

// Since creation, this rank's slots and tokens.
struct MoeStats {
  std::vector<std::vector<int64_t>> rows_per_slot;       // [MoE layer][local slot] selections computed here
  std::vector<std::vector<int64_t>> dropped_per_expert;  // [MoE layer][expert] selections of tokens at home; kCapacity
  std::vector<double> lost_weight_per_layer;             // [MoE layer] routing weight of what was dropped
  double route_seconds = 0, experts_seconds = 0;         // host time; on a GPU the time to enqueue
};

// One per rank, for all MoE layers of a model: they share the scratch memory.
class MoeLayer {
 public:
  static absl::StatusOr<std::unique_ptr<MoeLayer>> Create(Transport& transport, Device& device,
                                                          const ModelConfig& config, const Placement& placement,
                                                          const MoeOptions& options);

  // Collective; every rank takes part, with x.rows = 0 if need be. out[t] = sum of the token's experts, weighted; x and
  // out [T, H] f32, not the same memory. `moe_idx` counts MoE layers from 0; site.layer counts all layers.
  absl::Status Run(Stream& stream, const CallSite& site, int moe_idx, const MoeWeights& weights,
                   MatrixView<const float> x, MatrixView<float> out);

  // Of the last Run: device memory.
  const Routing& routing() const { return routing_; }
  // Fails when a router has met a NaN since the last call; synchronizes.
  absl::Status CheckRouting(Stream& stream, const CallSite& site);
  // Completes the counters kept in device memory.
  absl::StatusOr<MoeStats> Stats(Stream& stream);
  const ExchangeStats& exchange_stats() const { return exchange_->stats(); }

 private:
  MoeLayer(Transport& transport, Device& device, const ModelConfig& config, const Placement& placement,
           const MoeOptions& options);
  absl::Status AllocateScratch();
  void Route(Stream& stream, const MoeWeights& weights, MatrixView<const float> x);
  absl::Status DropOverflow(Stream& stream, const CallSite& site, int moe_idx);
  absl::Status RunExperts(Stream& stream, int moe_idx, const MoeWeights& weights, const ExpertRows& rows,
                          MatrixView<float> out);

  Transport& transport_;
  Device& device_;
  const ModelConfig& config_;
  Placement placement_;
  MoeOptions options_;
  std::unique_ptr<Exchange> exchange_;
  Routing routing_;
  Buffer logits_, expert_idx_, expert_weight_, bad_tokens_, counts_, dropped_, lost_weight_;
  GrowingBuffer expert_scratch_{MemoryKind::kDevice, "expert scratch"};
  MoeStats stats_;
};

}  // namespace tokenferry

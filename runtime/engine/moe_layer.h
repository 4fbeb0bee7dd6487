// One Mixture-of-Experts layer, expert-parallel over all ranks: route, plan, dispatch, experts, combine.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "comm/exchange.h"
#include "core/device/growing_buffer.h"
#include "core/placement.h"
#include "runtime/engine/overflow_stage.h"
#include "runtime/model/model_config.h"
#include "runtime/model/weights.h"

namespace tokenferry {

// Sees this rank's plan of every exchange before it is executed; null: nobody looks.
using PlanObserver = std::function<void(const CallSite&, const ExchangePlan&)>;

struct MoeOptions {
  Compute compute = Compute::kBF16;
  OverflowPolicy overflow;
  int64_t max_tokens = 0;  // most tokens of this rank in a step
  ExchangePath path = ExchangePath::kAuto;
  std::optional<DType> dispatch_dtype;  // ExchangeOptions::row_dtype; none: what `compute` rounds rows to anyway
  DType combine_dtype = DType::kF32;    // ExchangeOptions::output_dtype
  Reduction reduction = Reduction::kExact;
  PlanObserver on_plan;
  std::function<void(const std::string&)> on_path;  // ExchangeOptions::on_choice
};

// Since creation, this rank's slots and tokens.
struct MoeStats {
  std::vector<std::vector<int64_t>> rows_per_slot;  // [MoE layer][local slot] selections computed here
  std::vector<OverflowCounts> overflow;             // [MoE layer] of tokens at home
  double route_seconds = 0, experts_seconds = 0;    // host time; on a GPU the time to enqueue
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
  MoeStats Stats() const;
  const ExchangeStats& exchange_stats() const { return exchange_->stats(); }

 private:
  MoeLayer(Transport& transport, Device& device, const ModelConfig& config, const Placement& placement,
           const MoeOptions& options);
  absl::Status AllocateScratch();
  void Route(Stream& stream, const MoeWeights& weights, MatrixView<const float> x);
  absl::Status RunExperts(Stream& stream, int moe_idx, const MoeWeights& weights, const ExpertRows& rows,
                          FloatMatrix out);
  absl::Status RunFfn(Stream& stream, int moe_idx, const MoeWeights& weights, const ExpertRows& rows, FloatMatrix out);
  absl::Status RunPadded(Stream& stream, int moe_idx, const MoeWeights& weights, const ExpertRows& rows,
                         FloatMatrix out);

  Transport& transport_;
  Device& device_;
  const ModelConfig& config_;
  Placement placement_;
  MoeOptions options_;
  std::unique_ptr<OverflowStage> overflow_;
  std::unique_ptr<Exchange> exchange_;
  Routing routing_;
  Buffer logits_, expert_idx_, expert_weight_, bad_tokens_;
  GrowingBuffer expert_scratch_{MemoryKind::kDevice, "expert scratch"};
  GrowingBuffer padded_rows_{MemoryKind::kDevice, "padded rows"};
  GrowingBuffer padded_idx_{MemoryKind::kDevice, "padded rows' indices"};
  GrowingBuffer padded_offsets_{MemoryKind::kDevice, "padded slot offsets"};
  GrowingBuffer padded_out_{MemoryKind::kDevice, "padded expert outputs"};
  std::vector<int64_t> padded_offsets_host_;  // of the last RunPadded
  MoeStats stats_;
};

}  // namespace tokenferry

// One Mixture-of-Experts layer, expert-parallel over all ranks, in five calls: Route, Plan, Dispatch, Experts, Combine.
#pragma once

#include <memory>
#include <vector>

#include "comm/tuning/exchange_choice.h"
#include "core/moe/gated_activation.h"
#include "core/moe/placement.h"
#include "experts/router/router.h"
#include "runtime/engine/engine_options.h"
#include "runtime/engine/expert_network.h"
#include "runtime/engine/overflow_stage.h"

namespace tokenferry {

// What the MoE layers of a model have in common, whatever the model.
struct MoeShape {
  int num_layers = 1;        // MoE layers
  int64_t hidden = 0;        // H
  int64_t intermediate = 0;  // I, the inner size of an expert
  int num_experts = 0;       // E, of all ranks
  RouterSpec router;
  GatedActivation activation;  // of the experts
  // kInput (top_k 1 only): an expert's input is multiplied by the routing weight, and its output is not (Llama 4). A
  // token then has one expert, so that its row is scaled once, at home, before it travels.
  WeightOn weight_on = WeightOn::kOutput;
  Compute compute = Compute::kBF16;  // of the experts; the router computes in f32
  int64_t max_tokens = 0;            // most tokens of this rank in a step
};

// What one layer multiplies with. Views of device memory.
struct MoeLayerWeights {
  WeightView router;                   // [E, H]
  const float* router_bias = nullptr;  // [E], added to what `router` makes; or null
  const float* choice_bias = nullptr;  // [E], RouteArgs::bias
  ExpertArrays experts;
};

// One layer's work on a batch of T tokens of this rank, T = 0 if there are none.
struct MoeStep {
  CallSite site;                             // of the layer; each call sets its own phase
  int moe_idx = 0;                           // MoE layers from 0, where site.layer counts all
  const MoeLayerWeights* weights = nullptr;  // of the layer
  MatrixView<const float> x;                 // [T, H]; unchanged until the layer ends
  // [T, H] x as it is dispatched: HomeRows', or another matrix that Exchange::BeginDispatch takes, as x itself.
  ConstFloatMatrix rows = {};
  const int32_t* position = nullptr;  // [T] RouteArgs::position: rows that are no tokens; null: none
  MatrixView<float> out;              // [T, H], not x's memory: the sum of a token's experts, weighted
  int64_t max_tokens_per_rank = 0;    // most tokens of any rank in this batch, the same on all
  // Where x begins among the rows that TakeBadTokens marks, and in `sequences`.
  int64_t first_row = 0;
  const SequenceTokens* sequences = nullptr;    // of the step; kSequenceCapacity only
  Routing routing = {};                         // Route's: device memory of the layer object
  MatrixView<const float> combine_weight = {};  // [T, K] Route's: routing.weight, or ones where it is on the input
  MatrixView<const float> router_logits = {};   // [T, E] Route's: with the router's bias, before scoring
};

// Since creation, this rank's slots and tokens.
struct MoeStats {
  std::vector<std::vector<int64_t>> rows_per_slot;  // [MoE layer][local slot] selections computed here
  std::vector<OverflowCounts> overflow;             // [MoE layer] of tokens at home
  int64_t num_calls = 0;                            // Routes; under an exchange budget one takes several exchanges
  double route_seconds = 0, experts_seconds = 0;    // host time; on a GPU the time to enqueue

  MoeStats& operator+=(const MoeStats& other);  // of the same layers and slots
};

// One per rank for all MoE layers of a model, which share its memory. For each layer every rank makes the five calls in
// their order, with the same site; Route takes all tokens of a step, and what it has decided passes through the other
// calls at once or in parts. Dispatch and Combine may be called in halves, with other work between them.
class MoeLayer {
 public:
  // Collective. `transport` and `device` must outlive it. options.exchange.max_tokens: the most tokens of a rank that
  // pass at once; 0: all of a step.
  static absl::StatusOr<std::unique_ptr<MoeLayer>> Create(Transport& transport, Device& device,
                                                          const Placement& placement, const MoeShape& shape,
                                                          const MoeOptions& options);

  // Where whoever writes the rows of a step may write them, so that where memory is shared nothing is copied
  // (Exchange::HomeRows). For one batch: `num_tokens` of this rank, at most `max_tokens_per_rank` of any.
  absl::StatusOr<FloatMatrix> HomeRows(int64_t num_tokens, int64_t max_tokens_per_rank) {
    return exchanges_.For(max_tokens_per_rank).HomeRows(num_tokens);
  }

  // Who goes where, with what weight; then the overflow policy, which is collective.
  absl::Status Route(Stream& stream, MoeStep& step);
  absl::Status Plan(Stream& stream, const MoeStep& step);
  absl::Status BeginDispatch(Stream& stream, const MoeStep& step);
  absl::StatusOr<ExpertRows> FinishDispatch(Stream& stream, const MoeStep& step);
  absl::Status Experts(Stream& stream, const MoeStep& step, const ExpertRows& rows);
  absl::Status BeginCombine(Stream& stream, const MoeStep& step);
  absl::Status FinishCombine(Stream& stream, const MoeStep& step);

  // Whether the five calls only enqueue, on arguments that are the same for the same shapes: then they may be captured.
  bool is_capturable() const {
    return overflow_kind_ == Overflow::kDropless && exchanges_.For(0).host_plan() == nullptr;
  }

  // Writes 1 for those of rows [0, marks.size()) that a Route since the last call could send nowhere, since a
  // router's scores of them were NaN; leaves the other marks. Synchronizes.
  absl::Status TakeBadTokens(Stream& stream, absl::Span<uint8_t> marks);
  // Both synchronize the stream: counters lie on the device.
  absl::StatusOr<MoeStats> stats(Stream& stream) const;
  absl::StatusOr<ExchangeStats> exchange_stats(Stream& stream) const { return exchanges_.stats(stream); }
  std::string exchange_path() const { return exchanges_.ToString(); }  // by size

 private:
  MoeLayer(Device& device, const Placement& placement, RankId rank, const MoeShape& shape, const MoeOptions& options);
  absl::Status Allocate();
  absl::Status ReserveExperts(int num_ranks, const ExchangeOptions& exchange);

  Device& device_;
  const Placement placement_;
  const MoeShape shape_;
  const PlanObserver on_plan_;
  const Overflow overflow_kind_;
  const int64_t num_slots_;  // of this rank, in every layer
  ExchangeBySize exchanges_;
  Exchange* exchange_ = nullptr;  // of the last Plan
  std::unique_ptr<OverflowStage> overflow_;
  std::unique_ptr<ExpertNetwork> experts_;
  Buffer logits_, expert_idx_, expert_weight_;  // [max_tokens, E], [max_tokens, K] twice
  Buffer scaled_rows_, ones_;                   // [max_tokens, H], [max_tokens, 1]; WeightOn::kInput only
  Buffer bad_tokens_;                           // [max_tokens] uint8, see TakeBadTokens
  Buffer rows_per_slot_;                        // [MoE layers, slots] int64
  MoeStats stats_;
};

// What `options` and `shape` ask of the exchange of a layer.
ExchangeOptions ExchangeOptionsOf(const MoeShape& shape, const MoeOptions& options);

}  // namespace tokenferry

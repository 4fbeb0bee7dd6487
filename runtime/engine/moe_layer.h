// One Mixture-of-Experts layer, expert-parallel over all ranks: route, plan, dispatch, experts, combine.
#pragma once

#include <memory>
#include <vector>

#include "comm/tuning/exchange_choice.h"
#include "core/device/growing_buffer.h"
#include "core/moe/placement.h"
#include "runtime/engine/engine_options.h"
#include "runtime/engine/overflow_stage.h"
#include "runtime/model/model_config.h"
#include "runtime/model/weights.h"

namespace tokenferry {

inline constexpr int kMaxMicroBatches = 2;

// Since creation, this rank's slots and tokens.
struct MoeStats {
  std::vector<std::vector<int64_t>> rows_per_slot;  // [MoE layer][local slot] selections computed here
  std::vector<OverflowCounts> overflow;             // [MoE layer] of tokens at home
  int64_t num_calls = 0;  // layers times micro-batches; under an exchange budget a call takes several exchanges
  double route_seconds = 0, experts_seconds = 0;  // host time; on a GPU the time to enqueue
};

// One per rank, for all MoE layers of a model: they share the scratch memory.
class MoeLayer {
 public:
  static absl::StatusOr<std::unique_ptr<MoeLayer>> Create(Transport& transport, Device& device,
                                                          const ModelConfig& config, const Placement& placement,
                                                          const EngineOptions& options);

  // A layer's work for one micro-batch, in three parts, between which other work may be done; another micro-batch too.
  // Collective; every rank takes part, with x.rows = 0 if need be. `moe_idx` counts MoE layers from 0; site.layer
  // counts all layers. x and out [T, H] f32, not the same memory; both stay the caller's until Finish.
  struct Batch {
    MatrixView<const float> x;
    MatrixView<float> out;        // written by Finish: out[t] = sum of the token's experts, weighted
    int64_t max_tokens_per_rank;  // of any rank's x; the same on all
  };
  absl::Status Begin(Stream& stream, const CallSite& site, int micro_batch, int moe_idx, const MoeWeights& weights,
                     const Batch& batch);  // routes, plans, sends rows
  absl::Status Compute(Stream& stream, const CallSite& site, int micro_batch, int moe_idx,
                       const MoeWeights& weights);  // receives rows, runs experts, sends their outputs
  absl::Status Finish(Stream& stream, const CallSite& site, int micro_batch);

  int num_micro_batches() const { return static_cast<int>(micro_batches_.size()); }
  // Of the last Begin: device memory.
  const Routing& routing(int micro_batch) const { return micro_batches_[micro_batch].routing; }
  // Fails when a router has met a NaN since the last call; synchronizes.
  absl::Status CheckRouting(Stream& stream, const CallSite& site);
  // Both synchronize the stream: counters lie on the device.
  absl::StatusOr<MoeStats> Stats(Stream& stream) const;
  absl::StatusOr<ExchangeStats> exchange_stats(Stream& stream) const;  // of all micro-batches
  std::string exchange_path() const { return micro_batches_[0].exchanges.ToString(); }

 private:
  MoeLayer(Transport& transport, Device& device, const ModelConfig& config, const Placement& placement,
           const EngineOptions& options);
  struct MicroBatch {
    ExchangeBySize exchanges;
    Exchange* exchange = nullptr;  // of the round
    Buffer expert_idx, expert_weight;
    Routing routing;
    Batch batch;
    int64_t round = 0, num_rounds = 1;
  };

  absl::Status AllocateScratch();
  absl::Status CreateExchanges();
  void Route(Stream& stream, const MoeWeights& weights, MicroBatch& mb);
  template <class T>
  MatrixView<T> RoundRows(const MicroBatch& mb, MatrixView<T> m) const;
  absl::Status BeginRound(Stream& stream, const CallSite& site, MicroBatch& mb);
  absl::Status FinishRound(Stream& stream, const CallSite& site, MicroBatch& mb);
  absl::Status RunExperts(Stream& stream, int moe_idx, const MoeWeights& weights, const ExpertRows& rows,
                          FloatMatrix out);
  absl::Status RunFfn(Stream& stream, const MoeWeights& weights, const ExpertRows& rows, FloatMatrix out);
  absl::Status RunPadded(Stream& stream, const MoeWeights& weights, const ExpertRows& rows, FloatMatrix out);

  Transport& transport_;
  Device& device_;
  const ModelConfig& config_;
  Placement placement_;
  EngineOptions options_;
  std::unique_ptr<OverflowStage> overflow_;
  std::vector<MicroBatch> micro_batches_;
  int64_t tokens_per_round_ = 0;  // most of a rank
  const int64_t num_slots_;       // of this rank, in every layer
  Buffer logits_, bad_tokens_;
  Buffer rows_per_slot_;  // [MoE layers, slots] int64
  GrowingBuffer expert_scratch_{MemoryKind::kDevice, "expert scratch"};
  GrowingBuffer padded_rows_{MemoryKind::kDevice, "padded rows"};
  GrowingBuffer padded_idx_{MemoryKind::kDevice, "padded rows' indices"};
  GrowingBuffer padded_offsets_{MemoryKind::kDevice, "padded slot offsets"};
  GrowingBuffer padded_out_{MemoryKind::kDevice, "padded expert outputs"};
  MoeStats stats_;
};

}  // namespace tokenferry

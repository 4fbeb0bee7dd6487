// Lock-step execution: every rank enters every collective of every step. Engine::Step is the only place where a step
// begins.
#pragma once

#include <algorithm>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "absl/types/span.h"
#include "runtime/engine/decode_graphs.h"
#include "runtime/engine/engine_options.h"
#include "runtime/engine/logit_rows.h"
#include "runtime/engine/scheduler.h"
#include "runtime/engine/sequence_table.h"
#include "runtime/engine/step_plan.h"
#include "runtime/engine/transformer.h"

namespace tokenferry {

// What this rank did since creation.
struct EngineStats {
  int64_t num_steps = 0;                           // also the number of the next one, the same on all ranks
  int64_t prefill_tokens = 0, decode_tokens = 0;   // of all ranks
  double prefill_seconds = 0, decode_seconds = 0;  // a step with any prompt token counts as prefill
};

// What all ranks answered to a plan.
struct StepResults {
  std::vector<EntryResult> entries;   // in the plan's order
  std::vector<RankStats> rank_stats;  // [R], if the plan wanted them
};

// The experts that this rank's tokens of a step chose in one MoE layer of the stack that each passes through, [tokens,
// top_k], -1 where that has none; host memory for the call.
using RoutingRecorder = std::function<void(int64_t step, int moe_idx, absl::Span<const int32_t> expert_idx)>;

// One per rank. Owns cache and activations; transport, device, config and weights must outlive it.
class Engine {
 public:
  static absl::StatusOr<std::unique_ptr<Engine>> Create(Transport& transport, Device& device, const ModelSpec& model,
                                                        const ModelWeights& weights, const Placement& placement,
                                                        const EngineOptions& options);
  ~Engine();

  static constexpr RankId kScheduler{0};  // who makes the plans

  // Collective: one step. Rank 0 passes the plan and gets all results in the plan's order; the other ranks pass null
  // and get none. Returns false when the plan was the one that stops.
  absl::StatusOr<bool> Step(const StepPlan* plan, StepResults* results);
  // The two ends of a loop of steps. Ranks other than 0: steps until a plan stops them. Rank 0: the plan that does; all
  // ranks then return `why`.
  absl::Status Follow();
  absl::Status Stop(StepPlan last, const absl::Status& why);

  // Collective: rank 0 runs the scheduler until it is idle, handing every update to `on_update` (which may call
  // Scheduler::Add and Finish), then all ranks leave. The other ranks ignore both arguments. An error of `on_update`
  // ends the loop on all ranks, which return it. Cancelled on all ranks, after the step under way, when rank 0 was
  // asked to stop (comm/wait/wait.h).
  absl::Status RunUntilIdle(Scheduler* scheduler, const std::function<absl::Status(const SequenceUpdate&)>& on_update);

  // From the next step on, on all ranks; costs a copy to the host per layer, and on a GPU the graphs.
  void RecordRouting(RoutingRecorder recorder) { recorder_ = std::move(recorder); }

  // Before the first sequence whose sampling has a grammar.
  void SetVocabulary(std::unique_ptr<const Vocabulary> vocabulary) { sequences_->SetVocabulary(std::move(vocabulary)); }

  RankId rank() const { return transport_.rank(); }
  absl::Duration timeout() const { return transport_.timeout(); }  // of waits for other ranks
  SchedulerOptions scheduler_options() const;
  const EngineStats& stats() const { return stats_; }
  absl::StatusOr<MoeStats> moe_stats() const;
  absl::StatusOr<ExchangeStats> exchange_stats() const { return transformer_->exchange_stats(*stream_); }
  std::string exchange_path() const { return transformer_->exchange_path(); }  // by size
  int64_t cache_bytes() const { return cache_->num_bytes(); }

  // What Create will make. Rows of logits: the most that it may, since a GPU that can capture its steps needs those of
  // the largest.
  static KvCacheOptions CacheOptions(const ModelSpec& model, const EngineOptions& options);
  static int64_t MostLogitRows(const EngineOptions& options, DeviceKind device);

 private:
  Engine(Transport& transport, Device& device, const ModelSpec& model, const EngineOptions& options)
      : transport_(transport), device_(device), model_(model), options_(options) {}
  int64_t max_tokens() const { return options_.max_tokens(); }
  // Of the stack that has more: a row of a step passes through one stack.
  int64_t most_moe_layers() const {
    return std::max(model_.num_moe_layers(Stack::kEncoder), model_.num_moe_layers(Stack::kDecoder));
  }
  absl::Status Allocate();
  // num_rows > 0: of a step of fixed shape, which has as many rows; those behind the tokens are none.
  StepTokens Upload(const std::vector<const StepEntry*>& mine, int64_t num_rows = 0);
  bool IsGraph(const StepPlan& plan) const;
  // Of the graph for steps of which no rank has more.
  static int64_t GraphRows(const EngineOptions& options, int64_t most_tokens);
  absl::Status Decode(int64_t step, const std::vector<const StepEntry*>& mine, int64_t num_rows,
                      std::vector<EntryResult>& results);
  absl::StatusOr<std::vector<EntryResult>> Execute(int64_t step, const StepPlan& plan);
  absl::StatusOr<RankStats> CollectStats();
  void Count(const StepPlan& plan, double seconds);
  void TakeRouting(const std::vector<const StepEntry*>& mine, absl::Span<const int32_t> expert_idx,
                   absl::Span<const float> expert_weight, std::vector<EntryResult>& results) const;
  absl::Status Score(const std::vector<const StepEntry*>& mine, std::vector<EntryResult>& results);
  absl::Status RefuseBadTokens(int64_t step, const StepTokens& tokens, const std::vector<const StepEntry*>& mine,
                               std::vector<EntryResult>& results);

  Transport& transport_;
  Device& device_;
  const ModelSpec& model_;
  EngineOptions options_;
  std::unique_ptr<Stream> stream_;
  std::unique_ptr<Transformer> transformer_;
  std::optional<KvCache> cache_;
  std::optional<SequenceTable> sequences_;
  std::optional<LogitRows> logits_;
  Buffer inputs_;
  SequenceTokens sequence_tokens_;  // of the step
  DecodeGraphs graphs_;
  WaitPace pace_ = WaitPace::kPrompt;  // of the wait for the next plan
  EngineStats stats_;
  RoutingRecorder recorder_;
};

}  // namespace tokenferry

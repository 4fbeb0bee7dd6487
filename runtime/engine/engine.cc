#include "runtime/engine/engine.h"

#include <algorithm>
#include <cstring>

#include "absl/algorithm/container.h"
#include "comm/transport/collectives.h"
#include "comm/wait/wait.h"
#include "core/host/clock.h"
#include "runtime/engine/cache_layers.h"
#include "runtime/engine/step_trace.h"

namespace tokenferry {
namespace {

constexpr CallSite kEndOfSteps{"end of steps"};

}  // namespace

Engine::~Engine() = default;

absl::StatusOr<std::unique_ptr<Engine>> Engine::Create(Transport& transport, Device& device, const ModelSpec& model,
                                                       const ModelWeights& weights, const Placement& placement,
                                                       const EngineOptions& options) {
  std::unique_ptr<Engine> engine(new Engine(transport, device, model, options));
  TF_ASSIGN_OR_RETURN(engine->stream_, device.CreateStream());
  TF_ASSIGN_OR_RETURN(engine->transformer_, Transformer::Create(transport, device, model, weights, placement, options));
  TF_RETURN_IF_ERROR(engine->Allocate());
  return engine;
}

KvCacheOptions Engine::CacheOptions(const ModelSpec& model, const EngineOptions& options) {
  KvCacheOptions cache;
  cache.layers = CacheLayersOf(model);
  if (model.has_states()) cache.num_states = options.max_sequences_per_rank;
  cache.dtype = options.compute == Compute::kBF16 ? DType::kBF16 : DType::kF32;
  cache.num_blocks = options.cache_tokens_per_rank / kCacheBlockTokens;
  return cache;
}

int64_t Engine::MostLogitRows(const EngineOptions& options, DeviceKind device) {
  if (device == DeviceKind::kCpu) return Transformer::kLogitRows;
  return std::max(Transformer::kLogitRows, GraphRows(options, options.max_sequences_per_rank));
}

absl::Status Engine::Allocate() {
  const KvCacheOptions cache = CacheOptions(model_, options_);
  TF_ASSIGN_OR_RETURN(KvCache created, KvCache::Create(device_, cache));
  cache_ = std::move(created);
  sequences_.emplace(transport_.rank(), cache.num_blocks, options_.max_sequences_per_rank);
  // ids, seq, position, wanted rows, rows of rotations and last positions of encoders; a state and a block table row
  // per entry, of which a sequence with an encoder has two.
  const int64_t num_entries = (model_.has_encoder() ? 2 : 1) * options_.max_sequences_per_rank;
  const int64_t ints = 6 * max_tokens() + num_entries * (1 + cache.num_blocks);
  TF_ASSIGN_OR_RETURN(inputs_, device_.Allocate(ints * sizeof(int32_t), MemoryKind::kDevice, "step inputs"));
  const int64_t rows =
      transformer_->is_capturable() ? MostLogitRows(options_, device_.kind()) : Transformer::kLogitRows;
  TF_ASSIGN_OR_RETURN(LogitRows logits, LogitRows::Create(device_, model_.vocab_size, rows));
  logits_.emplace(std::move(logits));
  return absl::OkStatus();
}

absl::StatusOr<bool> Engine::Step(const StepPlan* plan, StepResults* results) {
  const int64_t step = stats_.num_steps;
  const CallSite site{"step plan", -1, step, pace_};
  TF_ASSIGN_OR_RETURN(const std::string bytes,
                      Broadcast(transport_, site, kScheduler, plan == nullptr ? std::string() : Encode(*plan)));
  TF_ASSIGN_OR_RETURN(const StepPlan agreed, DecodeStepPlan(bytes));
  const Stopwatch watch;
  TF_RETURN_IF_ERROR(sequences_->Apply(agreed));
  pace_ = agreed.kind == StepKind::kIdle ? WaitPace::kPatient : WaitPace::kPrompt;
  if (agreed.kind == StepKind::kStop) return false;
  RankResults mine;
  if (agreed.kind == StepKind::kRun) {
    TF_ASSIGN_OR_RETURN(mine.entries, Execute(step, agreed));
  }
  if (agreed.stats == Wanted::kYes) {
    TF_ASSIGN_OR_RETURN(mine.stats.emplace_back(), CollectStats());
  }
  TF_ASSIGN_OR_RETURN(std::vector<std::string> all,
                      Gather(transport_, {"step results", -1, step}, kScheduler, Encode(mine)));
  Count(agreed, watch.seconds());
  if (results == nullptr) return true;
  *results = {};
  for (std::string& part : all) {  // by rank, as the plan's entries are
    TF_ASSIGN_OR_RETURN(RankResults theirs, DecodeResults(part));
    std::string().swap(part);  // logits and traces are large: not all of them twice
    absl::c_move(theirs.entries, std::back_inserter(results->entries));
    absl::c_move(theirs.stats, std::back_inserter(results->rank_stats));
  }
  return true;
}

void Engine::Count(const StepPlan& plan, double seconds) {
  stats_.num_steps += 1;
  if (plan.kind != StepKind::kRun) return;
  bool prefill = false;
  for (const StepEntry& e : plan.entries) prefill |= e.want != Want::kToken || e.tokens.size() > 1 || e.position == 0;
  (prefill ? stats_.prefill_seconds : stats_.decode_seconds) += seconds;
  (prefill ? stats_.prefill_tokens : stats_.decode_tokens) += plan.num_tokens();
}

absl::StatusOr<RankStats> Engine::CollectStats() {
  TF_ASSIGN_OR_RETURN(const MoeStats moe, moe_stats());
  TF_ASSIGN_OR_RETURN(const ExchangeStats exchange, exchange_stats());
  RankStats stats;
  for (const auto& layer : moe.rows_per_slot) {
    stats.rows_per_slot.insert(stats.rows_per_slot.end(), layer.begin(), layer.end());
  }
  for (const OverflowCounts& layer : moe.overflow) {
    stats.dropped.push_back(absl::c_accumulate(layer.dropped, int64_t{0}));
    stats.rerouted.push_back(absl::c_accumulate(layer.rerouted, int64_t{0}));
  }
  stats.bytes_sent_per_rank = exchange.dispatch_bytes_per_rank;
  for (size_t r = 0; r < stats.bytes_sent_per_rank.size(); ++r) {
    stats.bytes_sent_per_rank[r] += exchange.combine_bytes_per_rank[r];
  }
  const absl::Span<const double> waits = transport_.wait_seconds_per_rank();
  stats.wait_seconds_per_rank.assign(waits.begin(), waits.end());
  stats.exchange_seconds = exchange.plan_seconds + exchange.dispatch_seconds + exchange.combine_seconds;
  return stats;
}

absl::Status Engine::Follow() {
  while (true) {
    TF_ASSIGN_OR_RETURN(const bool more, Step(nullptr, nullptr));
    if (!more) return AgreeOnStatus(transport_, kEndOfSteps, absl::OkStatus());
  }
}

absl::Status Engine::Stop(StepPlan last, const absl::Status& why) {
  last.kind = StepKind::kStop;
  TF_RETURN_IF_ERROR(Step(&last, nullptr).status());
  // All ranks meet once more: if the reason was that one of them has died, the others find out here and say so.
  return AgreeOnStatus(transport_, kEndOfSteps, why);
}

absl::Status Engine::RunUntilIdle(Scheduler* scheduler,
                                  const std::function<absl::Status(const SequenceUpdate&)>& on_update) {
  if (rank() != kScheduler) return Follow();
  StepResults results;
  while (!scheduler->idle() && !StopRequested()) {
    const StepPlan plan = scheduler->Next();
    TF_RETURN_IF_ERROR(Step(&plan, &results).status());
    TF_ASSIGN_OR_RETURN(const std::vector<SequenceUpdate> updates, scheduler->Accept(std::move(results.entries)));
    for (const SequenceUpdate& update : updates) {
      if (const absl::Status taken = on_update(update); !taken.ok()) return Stop({}, taken);
    }
  }
  if (!scheduler->idle()) return Stop({}, absl::CancelledError("asked to stop"));
  return Stop(scheduler->Next(), absl::OkStatus());  // releases what ended last
}

StepTokens Engine::Upload(const std::vector<const StepEntry*>& mine, int64_t num_rows) {
  std::vector<int32_t> ids, seq, position, rope_row, last_source, states;
  int64_t max_blocks = 0, num_encoder_tokens = 0;
  sequence_tokens_ = {};
  for (size_t i = 0; i < mine.size(); ++i) {
    const StepEntry& e = *mine[i];
    SequenceTable::Sequence& sequence = sequences_->at(e.seq);
    if (e.stack == Stack::kEncoder) num_encoder_tokens += static_cast<int64_t>(e.tokens.size());
    if (model_.moe.sequence_capacity > 0) {
      sequence.expert_selections.resize(model_.num_moe_layers() * model_.moe.num_experts);
      sequence_tokens_.selections.push_back(sequence.expert_selections.data());
    }
    max_blocks = std::max(max_blocks, static_cast<int64_t>(sequence.blocks.size()));
    states.push_back(sequence.state);
    for (size_t t = 0; t < e.tokens.size(); ++t) {
      ids.push_back(e.tokens[t]);
      seq.push_back(static_cast<int32_t>(i));
      position.push_back(static_cast<int32_t>(e.position + t));
      rope_row.push_back(transformer_->RopeRowOf(sequence.rope_factors, position.back()));
      last_source.push_back(static_cast<int32_t>(sequence.num_source_tokens - 1));
    }
  }
  const int64_t num_tokens = num_rows > 0 ? num_rows : static_cast<int64_t>(ids.size());
  if (num_rows > 0) max_blocks = DecodeGraphs::TableColumns(max_blocks, cache_->options().num_blocks);
  ids.resize(num_tokens);
  seq.resize(num_tokens);
  position.resize(num_tokens, -1);
  rope_row.resize(num_tokens, 0);
  std::vector<int32_t> block_table(mine.size() * max_blocks, -1);
  for (size_t i = 0; i < mine.size(); ++i) {
    const std::vector<int32_t>& blocks = sequences_->at(mine[i]->seq).blocks;
    std::copy(blocks.begin(), blocks.end(), block_table.begin() + i * max_blocks);
  }
  int32_t* next = inputs_.as<int32_t>();
  const auto upload = [&](const std::vector<int32_t>& values, int64_t reserved) {
    int32_t* at = next;
    stream_->CopyToDevice(at, values.data(), values.size() * sizeof(int32_t));
    next += reserved;
    return at;
  };
  StepTokens tokens;
  tokens.ids = upload(ids, max_tokens());
  tokens.positions.seq = upload(seq, max_tokens());
  tokens.positions.position = upload(position, max_tokens());
  tokens.positions.num_tokens = num_tokens;
  next += max_tokens();  // wanted rows, see Score
  tokens.positions.rope_row = model_.rope.scaling == RopeScaling::kLongRope ? upload(rope_row, max_tokens()) : nullptr;
  tokens.states = model_.has_states() ? upload(states, options_.max_sequences_per_rank) : nullptr;
  tokens.last_source = model_.has_encoder() ? upload(last_source, max_tokens()) : nullptr;
  tokens.num_encoder_tokens = num_encoder_tokens;
  sequence_tokens_.seq = std::move(seq);
  tokens.sequences = &sequence_tokens_;
  tokens.block_table = upload(block_table, 0);
  tokens.max_blocks = max_blocks;
  return tokens;
}

absl::StatusOr<std::vector<EntryResult>> Engine::Execute(int64_t step, const StepPlan& plan) {
  std::vector<const StepEntry*> mine;
  bool observe = recorder_ != nullptr;
  for (const StepEntry& e : plan.entries) {
    if (e.rank != transport_.rank()) continue;
    mine.push_back(&e);
    observe |= e.want == Want::kLogits || e.routing == Wanted::kYes;
  }
  const int64_t most_tokens = plan.max_tokens_per_rank(transport_.num_ranks());
  std::vector<EntryResult> results(mine.size());
  if (most_tokens > 0 && IsGraph(plan)) {
    TF_RETURN_IF_ERROR(Decode(step, mine, GraphRows(options_, most_tokens), results));
    return results;
  }
  StepTokens tokens = Upload(mine);
  tokens.max_tokens_per_rank = most_tokens;
  tokens.max_encoder_tokens_per_rank = plan.max_tokens_per_rank(transport_.num_ranks(), Stack::kEncoder);
  const int64_t T = tokens.positions.num_tokens, K = model_.moe.router.top_k, L = most_moe_layers();
  std::vector<int32_t> expert_idx(observe ? L * T * K : 0, -1);
  std::vector<float> expert_weight(observe ? L * T * K : 0);
  const StepTrace trace(model_, mine, results);
  LayerObserver observer;
  if (observe) {
    observer.on_routing = [&](int moe_idx, int64_t first_token, const Routing& routing,
                              MatrixView<const float> router_logits) {
      const int64_t at = (moe_idx * T + first_token) * K, n = routing.expert_idx.rows * K;
      stream_->CopyToHost(expert_idx.data() + at, routing.expert_idx.data, n * sizeof(int32_t));
      stream_->CopyToHost(expert_weight.data() + at, routing.weight.data, n * sizeof(float));
      trace.TakeRouterLogits(*stream_, moe_idx, first_token, router_logits);
    };
  }
  trace.Observe(*stream_, observer);
  TF_RETURN_IF_ERROR(transformer_->Forward(*stream_, step, tokens, *cache_, observer));
  TF_RETURN_IF_ERROR(Score(mine, results));
  TF_RETURN_IF_ERROR(RefuseBadTokens(step, tokens, mine, results));
  for (int64_t l = 0; recorder_ != nullptr && l < L; ++l) {
    recorder_(step, static_cast<int>(l), absl::MakeConstSpan(expert_idx).subspan(l * T * K, T * K));
  }
  if (observe) TakeRouting(mine, expert_idx, expert_weight, results);
  return results;
}

// Whether every sequence has one token and wants the next one alone. The same on all ranks.
bool Engine::IsGraph(const StepPlan& plan) const {
  if (recorder_ != nullptr || !transformer_->is_capturable()) return false;
  return absl::c_all_of(plan.entries, [](const StepEntry& e) {
    return e.want == Want::kToken && e.tokens.size() == 1 && e.targets.empty() && e.routing == Wanted::kNo;
  });
}

int64_t Engine::GraphRows(const EngineOptions& options, int64_t most_tokens) {
  return std::min(DecodeGraphs::RowsFor(most_tokens), options.max_tokens());
}

// A step that IsGraph. The host waits once before it reads the logits.
absl::Status Engine::Decode(int64_t step, const std::vector<const StepEntry*>& mine, int64_t num_rows,
                            std::vector<EntryResult>& results) {
  StepTokens tokens = Upload(mine, num_rows);
  tokens.max_tokens_per_rank = num_rows;
  int32_t* const device_rows = inputs_.as<int32_t>() + 3 * max_tokens();
  std::vector<int32_t> rows(num_rows);
  absl::c_iota(rows, 0);
  stream_->CopyToDevice(device_rows, rows.data(), num_rows * sizeof(int32_t));
  std::vector<LogitRows::Row> wanted;
  for (const StepEntry* e : mine) wanted.push_back({e, &sequences_->at(e->seq), 0});
  logits_->Want(*stream_, std::move(wanted));
  absl::Status decoded = graphs_.Run(device_, *stream_, {num_rows, tokens.max_blocks}, [&]() -> absl::Status {
    TF_RETURN_IF_ERROR(transformer_->Forward(*stream_, /*step=*/-1, tokens, *cache_, {}));  // the graph is of many
    for (int64_t begin = 0; begin < num_rows; begin += Transformer::kLogitRows) {
      const int64_t n = std::min(Transformer::kLogitRows, num_rows - begin);
      transformer_->Logits(*stream_, device_rows + begin, logits_->Rows(begin, n));
    }
    logits_->Scan(*stream_, 0, num_rows);
    return absl::OkStatus();
  });
  if (decoded.ok()) {
    logits_->Fetch(*stream_);
    decoded = stream_->Synchronize();
  }
  TF_RETURN_IF_ERROR(Annotate(decoded, absl::StrCat("step ", step)));
  for (size_t i = 0; i < mine.size(); ++i) {
    results[i].seq = mine[i]->seq;
    logits_->Take(static_cast<int64_t>(i), results[i]);
  }
  return RefuseBadTokens(step, tokens, mine, results);
}

absl::StatusOr<MoeStats> Engine::moe_stats() const {
  TF_ASSIGN_OR_RETURN(MoeStats stats, transformer_->moe_stats(*stream_));
  stats.num_calls += graphs_.num_replays() * model_.num_moe_layers() * transformer_->num_micro_batches();
  return stats;
}

SchedulerOptions Engine::scheduler_options() const {
  return {transport_.num_ranks(),
          options_.prefill_chunk,
          options_.max_sequences_per_rank,
          options_.cache_tokens_per_rank / kCacheBlockTokens * kCacheBlockTokens,
          model_.vocab_size,
          absl::InfiniteDuration(),
          PrefixCache::kOn,
          model_.rope,
          model_.has_states(),
          options_.encoder_tokens_per_rank,
          model_.has_encoder() ? model_.decoder_start_token_id : -1};
}

}  // namespace tokenferry

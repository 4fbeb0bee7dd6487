#include "launch/session/serve_loop.h"

#include <algorithm>
#include <map>
#include <utility>

#include "comm/transport/collectives.h"
#include "comm/wait/wait.h"
#include "runtime/engine/scheduler.h"

namespace tokenferry {
namespace {

// Rank 0's side: from messages to the scheduler's requests, and from its updates to messages.
class FrontRequests {
 public:
  FrontRequests(Scheduler& scheduler, RankLink& link) : scheduler_(scheduler), link_(link) {}

  void Take(Message message) {
    if (auto* add = std::get_if<AddRequest>(&message)) {
      const uint64_t id = add->id;
      if (const absl::Status status = Add(std::move(*add)); !status.ok()) {
        link_.Send(RequestFailed{id, FailureKind::kInvalid, std::string(status.message())});
      }
    } else if (const auto* cancel = std::get_if<CancelRequest>(&message)) {
      Cancel(cancel->id);
    }
  }

  // What a step has brought, its tokens in one message.
  void Report(std::vector<SequenceUpdate> updates) {
    TokenBatch batch;
    for (SequenceUpdate& update : updates) {
      const auto found = by_seq_.find(update.seq);
      if (found == by_seq_.end()) continue;
      const uint64_t id = found->second;
      const bool failed = update.end == SequenceEnd::kError;
      if (failed) link_.Send(RequestFailed{id, FailureKind::kInternal, std::string(update.error.message())});
      const bool scores = !update.result.logprobs.empty() || !update.has_token;
      if (!failed && scores) link_.Send(ScoresOf(id, update));
      if (!failed && update.has_token) batch.updates.push_back(TokenOf(id, update));
      if (update.finished()) Forget(update.seq);
    }
    if (!batch.updates.empty()) link_.Send(batch);
  }

 private:
  absl::Status Add(AddRequest add) {
    Request request;
    request.kind = add.max_new_tokens > 0 ? RequestKind::kGenerate : RequestKind::kScore;
    request.prompt = std::move(add.prompt);
    request.sampling = std::move(add.sampling);
    request.max_new_tokens = add.max_new_tokens;
    request.cache_scope = std::move(add.cache_scope);
    if (add.prompt_scores == WantPromptScores::kYes) request.prompt_scores = Wanted::kYes;
    if (add.routing == WantRouting::kYes) request.routing = Wanted::kYes;
    TF_ASSIGN_OR_RETURN(const int32_t seq, scheduler_.Add(std::move(request)));
    by_seq_[seq] = add.id;
    by_id_[add.id] = seq;
    return absl::OkStatus();
  }

  void Cancel(uint64_t id) {
    const auto found = by_id_.find(id);
    if (found == by_id_.end()) return;
    scheduler_.Finish(found->second);
    Forget(found->second);
  }

  void Forget(int32_t seq) {
    const auto found = by_seq_.find(seq);
    if (found == by_seq_.end()) return;
    by_id_.erase(found->second);
    by_seq_.erase(found);
  }

  static TokenUpdate TokenOf(uint64_t id, SequenceUpdate& update) {
    TokenUpdate token;
    token.id = id;
    token.sampled = {update.token.token, update.token.logprob};
    for (const TokenLogprob& t : update.token.top) token.top.push_back({t.token, t.logprob});
    token.expert_idx = std::move(update.result.expert_idx);
    token.num_cached_tokens = update.num_cached_tokens;
    token.end = EndOf(update);
    return token;
  }

  static PromptScores ScoresOf(uint64_t id, const SequenceUpdate& update) {
    PromptScores scores;
    scores.id = id;
    for (const double logprob : update.result.logprobs) scores.logprobs.push_back({-1, static_cast<float>(logprob)});
    scores.end = update.has_token ? OutputEnd::kNone : EndOf(update);
    return scores;
  }

  static OutputEnd EndOf(const SequenceUpdate& update) {
    if (update.end == SequenceEnd::kStopToken) return OutputEnd::kStop;
    return update.end == SequenceEnd::kLength ? OutputEnd::kLength : OutputEnd::kNone;
  }

  Scheduler& scheduler_;
  RankLink& link_;
  std::map<int32_t, uint64_t> by_seq_;
  std::map<uint64_t, int32_t> by_id_;
};

constexpr absl::Duration kStatsPause = absl::Seconds(1);

// What rank 0 knows by itself; what other ranks count is not gathered yet.
JobStats StatsOf(const Engine& engine, const SchedulerStats& scheduler) {
  JobStats stats;
  stats.num_steps = engine.stats().num_steps;
  stats.prefill_tokens = engine.stats().prefill_tokens;
  stats.decode_tokens = engine.stats().decode_tokens;
  stats.step_seconds = engine.stats().prefill_seconds + engine.stats().decode_seconds;
  stats.num_running = scheduler.num_running;
  stats.num_waiting = scheduler.num_waiting;
  stats.cache_blocks_total = scheduler.num_blocks;
  stats.cache_blocks_used = scheduler.num_held_blocks;
  stats.prefix_query_tokens = scheduler.prefix_query_tokens;
  stats.prefix_hit_tokens = scheduler.prefix_hit_tokens;
  stats.num_preemptions = scheduler.num_preemptions;
  stats.num_replays = scheduler.num_replays;
  return stats;
}

// Rank 0: steps until the front has ended or the job is asked to stop. Why the loop has ended.
absl::Status RunSteps(Engine& engine, Scheduler& scheduler, RankLink& link) {
  FrontRequests requests(scheduler, link);
  std::vector<EntryResult> results;
  Stopwatch since_step, since_stats;
  while (!StopRequested()) {
    const absl::Duration patience =
        scheduler.idle() ? std::max(absl::ZeroDuration(), kHeartbeat - since_step.elapsed()) : absl::ZeroDuration();
    // A signal does not end the wait: the longest nap is short enough for the time that mpirun leaves.
    for (Message& message : link.Take(std::min(patience, absl::Milliseconds(100)))) requests.Take(std::move(message));
    TF_RETURN_IF_ERROR(link.ended());
    if (scheduler.idle() && since_step.elapsed() < kHeartbeat) continue;
    const StepPlan plan = scheduler.Next();
    const Stopwatch since_step_began;
    TF_RETURN_IF_ERROR(engine.Step(&plan, &results).status());
    since_step = Stopwatch();
    scheduler.Observe(since_step_began.elapsed());
    TF_ASSIGN_OR_RETURN(std::vector<SequenceUpdate> updates, scheduler.Accept(std::move(results)));
    requests.Report(std::move(updates));
    link.Send(Heartbeat{engine.stats().num_steps});
    if (since_stats.elapsed() < kStatsPause) continue;
    since_stats = Stopwatch();
    link.Send(StatsOf(engine, scheduler.stats()));
  }
  return absl::CancelledError("asked to stop");
}

}  // namespace

absl::Status RunServing(RankContext& context, ModelSession& session, absl::Duration step_target, RankLink* link) {
  Engine& engine = *session.engine;
  const CallSite end{"end of serving"};
  if (link == nullptr) {
    while (true) {
      TF_ASSIGN_OR_RETURN(const bool more, engine.Step(nullptr, nullptr));
      if (!more) return AgreeOnStatus(context.transport, end, absl::OkStatus());
    }
  }
  SchedulerOptions options = engine.scheduler_options();
  options.step_target = step_target;
  Ready ready;
  for (const int host : context.topology.host_idx_per_rank)
    ready.host_per_rank.push_back(context.topology.hosts[host].name);
  ready.setup = context.topology.ToString();
  ready.cache_tokens_per_rank = options.cache_tokens_per_rank;
  ready.max_sequences_per_rank = options.max_sequences_per_rank;
  ready.load_seconds = session.load_seconds;
  link->Send(ready);
  Scheduler scheduler(options);
  absl::Status why = RunSteps(engine, scheduler, *link);
  const bool front_ended = !link->ended().ok();
  if (!front_ended && !absl::IsCancelled(why)) return why;  // of a rank: the others cannot be met any more
  // "drained" is no error.
  if (front_ended && absl::IsCancelled(why)) why = absl::OkStatus();
  StepPlan stop;
  stop.stop = true;
  TF_RETURN_IF_ERROR(engine.Step(&stop, nullptr).status());
  return AgreeOnStatus(context.transport, end, why);
}

}  // namespace tokenferry

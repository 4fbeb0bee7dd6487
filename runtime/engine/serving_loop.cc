#include "runtime/engine/serving_loop.h"

#include <algorithm>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "comm/wait/wait.h"
#include "core/host/clock.h"

namespace tokenferry {
namespace {

// Rank 0's side.
class ServingLoop {
 public:
  ServingLoop(Engine& engine, const CommandSource& commands, const ServingOptions& options, const StepObserver& on_step)
      : engine_(engine),
        commands_(commands),
        heartbeat_(std::min(options.heartbeat, engine.timeout() / 3)),
        stats_period_(options.stats_period),
        on_step_(on_step),
        scheduler_(Options(engine, options)) {}

  // An error is of a step: the ranks cannot be met any more. Otherwise `why` says how the loop has ended.
  absl::Status Run(absl::Status& why) {
    while (!StopRequested()) {
      // An idle plan goes out at once, so that the others stop looking out for work; then one per heartbeat.
      const bool may_wait = scheduler_.idle() && told_idle_;
      auto commands = commands_(may_wait ? std::min(until_heartbeat_.Remaining(), kStopPoll) : absl::ZeroDuration());
      why = commands.status();
      if (!why.ok()) return absl::OkStatus();
      Apply(*std::move(commands));
      if (draining_ && scheduler_.idle() && refused_.empty()) return absl::OkStatus();
      if (scheduler_.idle() && told_idle_ && refused_.empty() && !until_heartbeat_.Expired()) continue;
      StepReport report;
      TF_RETURN_IF_ERROR(Step(report));
      why = on_step_(report);
      if (!why.ok()) return absl::OkStatus();
    }
    why = absl::CancelledError("asked to stop");
    return absl::OkStatus();
  }

  // What the ranks have not released yet.
  StepPlan LastPlan() { return scheduler_.idle() ? scheduler_.Next() : StepPlan(); }

 private:
  // A signal that asks to stop does not wake the queue.
  static constexpr absl::Duration kStopPoll = absl::Milliseconds(100);

  static SchedulerOptions Options(const Engine& engine, const ServingOptions& options) {
    SchedulerOptions scheduler = engine.scheduler_options();
    scheduler.step_target = options.step_target;
    scheduler.prefix_cache = options.prefix_cache;
    return scheduler;
  }

  void Apply(std::vector<Command> commands) {
    for (Command& command : commands) {
      if (auto* add = std::get_if<AddCommand>(&command)) {
        Add(std::move(*add));
      } else if (const auto* cancel = std::get_if<CancelCommand>(&command)) {
        const auto it = seq_per_id_.find(cancel->id);
        if (it == seq_per_id_.end()) continue;
        scheduler_.Finish(it->second);
        Forget(it->second);
      } else {
        draining_ = true;
      }
    }
  }

  void Add(AddCommand add) {
    absl::StatusOr<int32_t> seq = absl::UnavailableError("no new requests are taken: the server is being stopped");
    if (!draining_ && seq_per_id_.contains(add.id)) {
      seq = absl::InvalidArgumentError(absl::StrCat("request ", add.id, " runs already"));
    } else if (!draining_) {
      seq = scheduler_.Add(std::move(add.request));
    }
    if (seq.ok()) {
      seq_per_id_[add.id] = *seq;
      id_per_seq_[*seq] = add.id;
      return;
    }
    SequenceUpdate refused;
    refused.seq = -1;
    refused.end = SequenceEnd::kError;
    refused.error = seq.status();
    refused_.push_back({add.id, std::move(refused)});
  }

  absl::Status Step(StepReport& report) {
    StepPlan plan = scheduler_.Next();
    told_idle_ = plan.entries.empty() && scheduler_.idle();
    plan.kind = told_idle_ ? StepKind::kIdle : StepKind::kRun;
    if (until_stats_.Expired()) {
      plan.stats = Wanted::kYes;
      until_stats_ = Deadline::After(stats_period_);
    }
    const Stopwatch watch;
    StepResults results;
    TF_RETURN_IF_ERROR(engine_.Step(&plan, &results).status());
    if (plan.kind == StepKind::kRun) scheduler_.Observe(watch.elapsed());
    until_heartbeat_ = Deadline::After(heartbeat_);
    TF_ASSIGN_OR_RETURN(std::vector<SequenceUpdate> updates, scheduler_.Accept(std::move(results.entries)));
    report.num_steps = engine_.stats().num_steps;
    report.updates = std::exchange(refused_, {});
    for (SequenceUpdate& update : updates) {
      const int32_t seq = update.seq;
      const bool finished = update.finished();
      report.updates.push_back({id_per_seq_.at(seq), std::move(update)});
      if (finished) Forget(seq);
    }
    report.scheduler = scheduler_.stats();
    report.rank_stats = std::move(results.rank_stats);
    return absl::OkStatus();
  }

  void Forget(int32_t seq) {
    const auto it = id_per_seq_.find(seq);
    seq_per_id_.erase(it->second);
    id_per_seq_.erase(it);
  }

  Engine& engine_;
  const CommandSource& commands_;
  const absl::Duration heartbeat_, stats_period_;
  const StepObserver& on_step_;
  Scheduler scheduler_;
  absl::flat_hash_map<uint64_t, int32_t> seq_per_id_;
  absl::flat_hash_map<int32_t, uint64_t> id_per_seq_;
  std::vector<RequestUpdate> refused_;  // since the last step
  bool draining_ = false, told_idle_ = false;
  Deadline until_heartbeat_ = Deadline::After(absl::ZeroDuration());
  Deadline until_stats_ = Deadline::After(absl::ZeroDuration());
};

}  // namespace

absl::Status RunServingLoop(Engine& engine, const CommandSource& commands, const ServingOptions& options,
                            const StepObserver& on_step) {
  if (engine.rank() != Engine::kScheduler) return engine.Follow();
  ServingLoop loop(engine, commands, options, on_step);
  absl::Status why;
  TF_RETURN_IF_ERROR(loop.Run(why));
  return engine.Stop(loop.LastPlan(), why);
}

}  // namespace tokenferry

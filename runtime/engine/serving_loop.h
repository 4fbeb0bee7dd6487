// The loop that serves: beside Engine::RunUntilIdle, which ends when its requests have, this one takes commands between
// steps and waits when there is nothing to do.
#pragma once

#include <cstdint>
#include <functional>
#include <variant>
#include <vector>

#include "runtime/engine/engine.h"

namespace tokenferry {

// What others ask of a running engine. Nothing else of it may be touched while it runs: scheduler and transport belong
// to the engine's thread.
struct AddCommand {
  uint64_t id = 0;  // the caller's; not of a request that runs
  Request request;
};
struct CancelCommand {
  uint64_t id = 0;  // one that is not there any more is passed over
};
struct DrainCommand {};  // no requests from now on; the loop ends when the last one has
using Command = std::variant<AddCommand, CancelCommand, DrainCommand>;

struct RequestUpdate {
  uint64_t id = 0;
  SequenceUpdate
      update;  // its `seq` is the engine's own; end == kError with `error` also for a request that was refused
};

// What a step brought, on rank 0.
struct StepReport {
  int64_t num_steps = 0;  // since the engine's creation, idle ones too; every rank has answered in each
  std::vector<RequestUpdate> updates;
  SchedulerStats scheduler;
  std::vector<RankStats> rank_stats;  // [R], at most once a second; else empty
};

struct ServingOptions {
  absl::Duration step_target = absl::Milliseconds(200);  // PrefillBudget
  PrefixCache prefix_cache = PrefixCache::kOn;
  absl::Duration heartbeat = absl::Seconds(1);  // how often all ranks answer when there is nothing to do
  absl::Duration stats_period = absl::Seconds(1);
};

// Called on the engine's thread of rank 0 between two steps: what has come since the last call, waiting at most `wait`
// for the first. An error ends the loop on all ranks, which return it.
using CommandSource = std::function<absl::StatusOr<std::vector<Command>>(absl::Duration wait)>;
// Called there after every step and with every heartbeat. An error ends the loop on all ranks, which return it.
using StepObserver = std::function<absl::Status(const StepReport&)>;

// Collective. Rank 0 asks `commands`, which the others ignore, until a drain has ended; the others follow. What one
// request causes is an error in its update, never the end of the loop. Idle ranks look for work 300 times a second and
// answer a heartbeat, so that a rank that has gone is found within the transport's timeout, traffic or not. Cancelled,
// on all ranks, after the step under way, when rank 0 was asked to stop (comm/wait/wait.h).
absl::Status RunServingLoop(Engine& engine, const CommandSource& commands, const ServingOptions& options,
                            const StepObserver& on_step);

}  // namespace tokenferry

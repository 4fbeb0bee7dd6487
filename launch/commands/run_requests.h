// From a list of requests to the report of what they took: the one way in which generate, eval and bench engine run.
#pragma once

#include <functional>
#include <vector>

#include "launch/reports/run_report.h"
#include "launch/session/model_session.h"
#include "runtime/engine/scheduler.h"

namespace tokenferry {

// Whether a sequence goes on after an update that was not its last.
enum class Proceed : uint8_t { kGoOn, kFinish };

// Sees every update, on rank 0 alone. `seq` is the request's place in the list. An error, also of one sequence, ends
// the run on all ranks, which return it.
using UpdateHandler = std::function<absl::StatusOr<Proceed>(const SequenceUpdate&)>;

// Collective. Runs rank 0's requests to their ends; the other ranks' lists are ignored. ResourceExhausted, on all
// ranks, for a request that could never fit. The report is since the session's start, and rank 0's.
absl::StatusOr<RunReport> RunRequests(RankContext& context, ModelSession& session, const std::vector<Request>& requests,
                                      const UpdateHandler& on_update);

}  // namespace tokenferry

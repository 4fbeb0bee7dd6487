#include "launch/commands/run_requests.h"

#include "comm/transport/collectives.h"

namespace tokenferry {

absl::StatusOr<RunReport> RunRequests(RankContext& context, ModelSession& session, const std::vector<Request>& requests,
                                      const UpdateHandler& on_update) {
  Engine& engine = *session.engine;
  Scheduler scheduler(engine.scheduler_options());
  absl::Status added = absl::OkStatus();
  if (context.rank() == RankId(0)) {
    // Sequences are numbered in the order of Add.
    for (size_t i = 0; added.ok() && i < requests.size(); ++i) added = scheduler.Add(requests[i]).status();
  }
  TF_RETURN_IF_ERROR(AgreeOnStatus(context.transport, {"requests"}, added));
  TF_RETURN_IF_ERROR(engine.RunUntilIdle(&scheduler, [&](const SequenceUpdate& u) -> absl::Status {
    TF_RETURN_IF_ERROR(u.error);
    TF_ASSIGN_OR_RETURN(const Proceed proceed, on_update(u));
    if (proceed == Proceed::kFinish) scheduler.Finish(u.seq);
    return absl::OkStatus();
  }));
  return CollectReport(context, session);
}

}  // namespace tokenferry

// The ranks of a server: steps for what the front asks, until it is drained or somebody has gone.
#pragma once

#include "launch/session/model_session.h"
#include "runtime/serve/process/rank_link.h"

namespace tokenferry {

// Collective. Prompts are cut so that a step takes about `step_target` (PrefillBudget). Rank 0 passes the link to the
// front, the others null. Says Ready, then takes requests and answers them; an idle step once a second
// shows that every rank is there. Returns OK when the front was drained and Cancelled when the job was asked to stop;
// any other error is that of a rank or of the front's end.
absl::Status RunServing(RankContext& context, ModelSession& session, absl::Duration step_target, RankLink* link);

}  // namespace tokenferry

// The subcommands. Each runs on every rank; only rank 0 prints results, on stdout. An error that one rank alone can
// meet (a file it reads) goes through AgreeOnStatus, so that all ranks end with it and it is printed once.
#pragma once

#include "launch/cli/flags.h"
#include "launch/ranks/bootstrap.h"

namespace tokenferry {

absl::Status RunGenerate(RankContext& context, const GenerateFlags& flags);
absl::Status RunEval(RankContext& context, const EvalFlags& flags);
absl::Status RunInspect(RankContext& context, const InspectFlags& flags);
absl::Status RunBenchEngine(RankContext& context, const BenchFlags& flags);
absl::Status RunBenchAllToAll(RankContext& context, const BenchAllToAllFlags& flags);
absl::Status RunBenchMoe(RankContext& context, const BenchMoeFlags& flags);

}  // namespace tokenferry

// tokenferry: one program, one subcommand per run. launch/commands/commands.h has the table of
// subcommands, launch/cli/command_line.h the command line, launch/ranks/bootstrap.h the ranks.
#include <unistd.h>

#include <cstdio>

#include "absl/types/span.h"
#include "launch/cli/command_line.h"
#include "launch/commands/commands.h"
#include "launch/ranks/bootstrap.h"

namespace tokenferry {
namespace {

constexpr int kUsage = 2;

enum class Speaker : uint8_t { kFirstRank, kEveryRank };

int RefuseCommandLine(const absl::Status& status, Speaker speaker = Speaker::kFirstRank) {
  if (speaker == Speaker::kEveryRank || GetLauncherInfo().rank == 0) {
    PrintError(status.message());
  } else {
    usleep(500'000);  // mpirun ends all ranks when the first one fails: let rank 0 speak before
  }
  return kUsage;
}

absl::Status RunSubcommand(RankContext& context, const Subcommand& subcommand) {
  TF_RETURN_IF_ERROR(subcommand.Run(context));
  if (context.rank() != RankId(0) || (std::fflush(stdout) == 0 && std::ferror(stdout) == 0)) return absl::OkStatus();
  return absl::UnavailableError("the results could not all be written to stdout; is its disk full?");
}

int Main(int argc, char** argv) {
  const auto line = ParseCommandLine(
      Subcommands(), absl::MakeConstSpan(const_cast<const char* const*>(argv) + 1, argc > 0 ? argc - 1 : 0));
  if (!line.ok()) return RefuseCommandLine(line.status());
  if (!line->text.empty()) {
    if (GetLauncherInfo().rank == 0) std::fputs(line->text.c_str(), stdout);
    return 0;
  }
  Subcommand& subcommand = *line->subcommand;
  RaiseFileLimit();
  if (const std::optional<int> status = subcommand.RunInsteadOfRanks(line->shared)) return *status;
  const LauncherInfo launcher = GetLauncherInfo();
  const auto plan = PlanRanks(line->shared, launcher);
  if (!plan.ok()) {
    return RefuseCommandLine(plan.status(), launcher.tells_size ? Speaker::kFirstRank : Speaker::kEveryRank);
  }
  if (const auto status = subcommand.PrepareProcess(line->shared, launcher, argv); !status.ok()) {
    return RefuseCommandLine(status);
  }
  return RunRanks(line->shared, *plan,
                  [&subcommand](RankContext& context) { return RunSubcommand(context, subcommand); });
}

}  // namespace
}  // namespace tokenferry

int main(int argc, char** argv) { return tokenferry::Main(argc, argv); }

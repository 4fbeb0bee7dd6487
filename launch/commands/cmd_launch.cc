#include "launch/commands/cmd_launch.h"

#include <filesystem>
#include <utility>

#include "absl/strings/str_cat.h"
#include "launch/cli/flag_set.h"
#include "launch/commands/commands.h"
#include "launch/ranks/bootstrap.h"
#include "runtime/serve/front/front.h"

namespace tokenferry {
namespace {

// Ranks that wait for one that has stopped say so after --comm-timeout, and need a moment for it.
constexpr absl::Duration kToSayWhy = absl::Seconds(5);
// What a rank may do by itself between two signs while it starts: far more than memory or a large tensor take.
constexpr absl::Duration kByItself = absl::Minutes(2);

constexpr char kUsage[] = "launch needs what to launch: tokenferry launch -n 4 -- serve --model DIR";

}  // namespace

void LaunchCommand::Declare(FlagSet& set, SharedFlags*) {
  set.Group("Ranks");
  set.Integer('n', "num-ranks", &num_ranks_, 0, 4096,
              "ranks that mpirun starts; 0: no mpirun, and ranks as threads as --ranks of serve says");
  set.Text("hostfile", &hostfile_, "mpirun's hostfile; the first host in it is this one");
  set.Choice("restart", &restart_, {{"never", RestartPolicy::kNever}, {"on-failure", RestartPolicy::kOnFailure}},
             "what becomes of ranks that fail; on-failure: they are started again, and requests go on");
}

absl::Status LaunchCommand::Check(const FlagSet&, SharedFlags*) {
  if (!hostfile_.empty() && num_ranks_ == 0) {
    return absl::InvalidArgumentError("--hostfile is for mpirun: say with -n how many ranks it starts");
  }
  if (const LauncherInfo launcher = GetLauncherInfo(); launcher.launched) {
    return absl::InvalidArgumentError(
        absl::StrCat("launch starts mpirun itself, but was started by ", launcher.name, ": leave one of them out"));
  }
  return serve_ == nullptr ? absl::InvalidArgumentError(kUsage) : absl::OkStatus();
}

absl::Status LaunchCommand::TakeProgram(absl::Span<const char* const> words) {
  if (words.empty()) return absl::InvalidArgumentError(kUsage);
  words_.assign(words.begin(), words.end());
  TF_ASSIGN_OR_RETURN(launched_, ParseCommandLine(Subcommands(), words));
  serve_ = dynamic_cast<const ServeCommand*>(launched_.subcommand.get());
  if (serve_ != nullptr) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("launch is for serve, not for '", words_[0], "': mpirun starts that"));
}

RankJobOptions LaunchCommand::JobOptions() const {
  RankJobOptions job;
  job.restart = restart_;
  job.most_silence = launched_.shared.comm_timeout + kToSayWhy;
  job.most_silence_at_start = job.most_silence + kByItself;
  if (num_ranks_ > 0) {
    // The ranks pin their threads themselves; mpirun would bind each of two to a single core.
    job.command = {"mpirun", "--bind-to", "none", "-n", absl::StrCat(num_ranks_), "-x", kFrontNameVariable};
    if (!hostfile_.empty()) job.command.insert(job.command.end(), {"--hostfile", hostfile_});
  }
  job.command.push_back(std::filesystem::read_symlink("/proc/self/exe"));
  job.command.insert(job.command.end(), words_.begin(), words_.end());
  return job;
}

std::optional<int> LaunchCommand::RunInsteadOfRanks(const SharedFlags&) {
  if (num_ranks_ > 0 && !HasNetwork()) {
    PrintError(absl::StrCat("no network interface is up, not even the loopback, and mpirun cannot start without: ",
                            "leave -n out and use serve --ranks ", num_ranks_,
                            " (ranks as threads), or as root: ip link set lo up"));
    return 1;
  }
  SetLogLevel(launched_.shared.log_level);
  return Front(serve_->flags().front, JobOptions()).Run();
}

}  // namespace tokenferry

// tokenferry launch: a server whose front starts the ranks, and starts them again when they fail.
#pragma once

#include "launch/cli/command_line.h"
#include "launch/cli/subcommand.h"
#include "launch/commands/cmd_serve.h"
#include "runtime/serve/front/rank_supervisor.h"

namespace tokenferry {

class LaunchCommand final : public Subcommand {
 public:
  void Declare(FlagSet& set, SharedFlags* shared) override;
  absl::Status Check(const FlagSet& set, SharedFlags* shared) override;
  Runs runs() const override { return Runs::kProgram; }
  absl::Status TakeProgram(absl::Span<const char* const> words) override;
  std::optional<int> RunInsteadOfRanks(const SharedFlags& shared) override;

 private:
  RankJobOptions JobOptions() const;

  int num_ranks_ = 0;  // 0: no mpirun
  std::string hostfile_;
  RestartPolicy restart_ = RestartPolicy::kNever;
  std::vector<std::string> words_;  // the command line that is launched
  CommandLine launched_;            // the same, parsed
  const ServeCommand* serve_ = nullptr;
};

}  // namespace tokenferry

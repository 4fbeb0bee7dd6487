// tokenferry serve: an OpenAI-compatible API. runtime/serve/README.md has the processes.
#pragma once

#include <memory>

#include "launch/cli/subcommand.h"
#include "runtime/serve/front/front_options.h"

namespace tokenferry {

class RankLink;

struct ServeFlags {
  FrontOptions front;
  int max_num_seqs = 32;  // sequences of a rank at a time
  absl::Duration step_target = absl::Milliseconds(200);
};

class ServeCommand final : public Subcommand {
 public:
  ServeCommand();
  ~ServeCommand() override;
  void Declare(FlagSet& set, SharedFlags* shared) override;
  absl::Status Check(const FlagSet& set, SharedFlags* shared) override;
  std::optional<int> RunInsteadOfRanks(const SharedFlags& shared) override;
  absl::Status PrepareProcess(const SharedFlags& shared, const LauncherInfo& launcher, char* const* argv) override;
  absl::Status Run(RankContext& context) const override;
  const ServeFlags& flags() const { return flags_; }

 private:
  absl::Status Serve(RankContext& context, RankLink* link) const;

  ServeFlags flags_;
  std::unique_ptr<RankLink> link_;  // in rank 0's process
};

}  // namespace tokenferry

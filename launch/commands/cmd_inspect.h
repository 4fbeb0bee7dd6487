// tokenferry inspect: what a checkpoint is, from its headers alone.
#pragma once

#include "launch/cli/subcommand.h"

namespace tokenferry {

struct InspectFlags {
  bool json = false;
};

class InspectCommand final : public Subcommand {
 public:
  void Declare(FlagSet& set, SharedFlags* shared) override;
  absl::Status Check(const FlagSet& set, SharedFlags* shared) override;
  absl::Status Run(RankContext& context) const override;
  const InspectFlags& flags() const { return flags_; }

 private:
  InspectFlags flags_;
};

}  // namespace tokenferry

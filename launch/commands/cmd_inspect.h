// tokenferry inspect: what a checkpoint is, from its headers alone.
#pragma once

#include "launch/cli/subcommand.h"

namespace tokenferry {

struct InspectFlags {
  bool json = false;
  int64_t max_model_len = 0;  // 0: the model's context
  int max_num_seqs = 32;      // of a rank
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

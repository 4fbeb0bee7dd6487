// tokenferry bench engine: loading, prefill and decode speed, and memory against what was declared. bench/README.md
// defines every number.
#pragma once

#include <string>

#include "launch/cli/subcommand.h"

namespace tokenferry {

struct BenchEngineFlags {
  int prompt_tokens = 128;  // per sequence
  int decode_tokens = 64;   // per sequence
  int num_sequences = 1;
  int num_repeats = 3;
  std::string json_file;  // empty: none
};

class BenchEngineCommand final : public Subcommand {
 public:
  void Declare(FlagSet& set, SharedFlags* shared) override;
  absl::Status Check(const FlagSet& set, SharedFlags* shared) override;
  absl::Status Run(RankContext& context) const override;
  const BenchEngineFlags& flags() const { return flags_; }

 private:
  BenchEngineFlags flags_;
};

}  // namespace tokenferry

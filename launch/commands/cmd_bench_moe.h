// tokenferry bench moe: a whole MoE layer with random weights. bench/README.md defines every number.
#pragma once

#include <string>

#include "bench/moe/moe_bench.h"
#include "launch/cli/subcommand.h"

namespace tokenferry {

struct BenchMoeFlags {
  MoeBenchOptions bench;  // flags that take lists take them as 1,8,64
  std::string json_file;  // empty: none
};

class BenchMoeCommand final : public Subcommand {
 public:
  void Declare(FlagSet& set, SharedFlags* shared) override;
  absl::Status Check(const FlagSet& set, SharedFlags* shared) override;
  absl::Status Run(RankContext& context) const override;
  const BenchMoeFlags& flags() const { return flags_; }

 private:
  BenchMoeFlags flags_;
};

}  // namespace tokenferry

// tokenferry bench alltoall: the exchange alone, beside MPI's. bench/README.md defines every number.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "bench/alltoall/alltoall_report.h"
#include "launch/cli/subcommand.h"

namespace tokenferry {

struct BenchAllToAllFlags {
  AllToAllBenchOptions bench;                             // flags that take lists take them as 1,8,64
  std::vector<std::string> traffics = {"uniform"};        // already read into bench.traffics
  int64_t min_bytes = 0, max_bytes = 0, step_factor = 2;  // of a rank's rows; already turned into tokens
  std::string preset = "none";                            // already applied to the lists
  PerRankTimes per_rank = PerRankTimes::kHide;
  std::string json_file, csv_file, plot_file;  // empty: none
};

class BenchAllToAllCommand final : public Subcommand {
 public:
  void Declare(FlagSet& set, SharedFlags* shared) override;
  absl::Status Check(const FlagSet& set, SharedFlags* shared) override;
  absl::Status Run(RankContext& context) const override;
  const BenchAllToAllFlags& flags() const { return flags_; }

 private:
  BenchAllToAllFlags flags_;
};

}  // namespace tokenferry

// tokenferry bench alltoall: the exchange alone, beside MPI's. bench/README.md defines every number.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "comm/exchange/exchange.h"
#include "core/formats/dtype.h"
#include "launch/cli/subcommand.h"

namespace tokenferry {

// Every combination of the lists is measured. Flags that take lists take them as 1,8,64.
struct BenchAllToAllFlags {
  std::vector<int64_t> tokens = {1, 8, 64, 512, 4096};  // of every rank
  std::vector<int64_t> hidden = {7168};
  std::vector<int> experts;  // empty: 256, or the trace's
  std::vector<int> top_k;    // empty: 8, or the trace's
  std::vector<DType> dtypes = {DType::kBF16};
  std::vector<DType> combine_dtypes = {DType::kF32};
  std::vector<ExchangePath> paths = {ExchangePath::kAuto};
  std::vector<Reduction> reductions = {Reduction::kExact};
  std::vector<std::string> placements = {"linear"};
  std::vector<std::string> traffics = {"uniform"};
  int64_t min_bytes = 0, max_bytes = 0, step_factor = 2;  // of a rank's rows; already turned into tokens
  std::string preset = "none";                            // already applied to the lists
  int warmup = 3;
  int iters = 20;
  bool no_baselines = false;
  bool per_rank = false;                       // print each rank's times
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

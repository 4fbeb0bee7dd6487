// tokenferry bench moe: a whole MoE layer with random weights. bench/README.md defines every number.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "comm/exchange/exchange.h"
#include "core/formats/dtype.h"
#include "launch/cli/subcommand.h"

namespace tokenferry {

// Every combination of the lists is measured. Flags that take lists take them as 1,8,64.
struct BenchMoeFlags {
  std::vector<int64_t> tokens = {1, 8, 64, 512};
  std::vector<int64_t> hidden = {2048};
  std::vector<int64_t> intermediate = {1024};
  std::vector<int> experts = {64};
  std::vector<int> top_k = {8};
  std::vector<DType> weight_dtypes = {DType::kBF16};
  std::vector<ExchangePath> paths = {ExchangePath::kAuto};
  int warmup = 3;
  int iters = 20;
  std::string json_file;
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

// The flags of `bench alltoall` and `bench moe`. Flags that take lists take them as 1,8,64.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "comm/exchange/exchange.h"
#include "core/formats/dtype.h"
#include "core/status.h"

namespace tokenferry {

class FlagSet;

// Every combination of the lists is measured; docs of the values: bench/README.md.
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
  std::string preset = "none";  // already applied to the lists
  int warmup = 3;
  int iters = 20;
  bool no_baselines = false;
  std::string json_file, plot_file;  // empty: none
};

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

// The names of --path, here and elsewhere.
std::vector<std::pair<std::string, ExchangePath>> PathChoices();

void DeclareBenchAllToAll(FlagSet& set, BenchAllToAllFlags* f);
void DeclareBenchMoe(FlagSet& set, BenchMoeFlags* f);

// Gives what --preset names to the flags that were not given.
void ApplyPreset(const FlagSet& set, BenchAllToAllFlags* f);

}  // namespace tokenferry

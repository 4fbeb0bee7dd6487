// tokenferry bench moe: the MoE layer that models run, with random weights: route, plan, dispatch, experts, combine.
#pragma once

#include <string>
#include <vector>

#include "bench/alltoall/alltoall_bench.h"
#include "bench/moe/bench_router.h"
#include "runtime/engine/moe_layer.h"

namespace tokenferry {

struct MoeBenchOptions {
  std::vector<int64_t> tokens = {1, 8, 64, 512};  // of every rank
  std::vector<int64_t> hidden = {2048};
  std::vector<int64_t> intermediate = {1024};
  std::vector<int> experts = {64};
  std::vector<int> top_k = {8};
  BenchRouterKind router = BenchRouterKind::kTopK;
  std::vector<DType> weight_dtypes = {DType::kBF16};  // kBF16, kF8E4M3 or kF32
  std::vector<ExchangePath> paths = {ExchangePath::kAuto};
  Compute compute = Compute::kBF16;
  int warmup = 3;
  int iters = 20;
};

struct MoeResult {
  MoeShape shape;  // max_tokens: tokens of every rank
  int top_k = 0;   // experts of a token, with expert choice on average
  DType weight_dtype = DType::kBF16;
  ExchangePath path = ExchangePath::kAuto, chosen = ExchangePath::kAuto;
  std::string unavailable;                                 // why this path was not run; empty: it was
  Summary route, plan, dispatch, experts, combine, layer;  // microseconds, as PhaseSummaries
  int64_t weight_bytes = 0;  // of the experts that were chosen by any token, all ranks together
  double flops = 0;          // of the experts, all ranks together
};

struct MoeReport {
  int num_ranks = 1, num_threads = 1;
  BenchRouterKind router = BenchRouterKind::kTopK;
  std::string topology, instruction_set, machine;
  std::string device;  // rank 0's
  double core_ratio_before = 0, core_ratio_after = 0;
  MachineBounds bounds;  // of all ranks together, all busy at once; of GPUs the memory alone, flops 0
  std::vector<MoeResult> results;
};

// Collective; the same report on every rank. Before and after timing every rank's first token is compared with its
// experts run here, one by one, on weights made anew: the same bits; and every run must give the same bits.
absl::StatusOr<MoeReport> RunMoeBench(const BenchContext& context, const MoeBenchOptions& options);

// At most 120 columns. "-": there is no such figure, since there was nothing to compute.
std::string MoeTable(const MoeReport& report);
std::string MoeJson(const MoeReport& report);

}  // namespace tokenferry

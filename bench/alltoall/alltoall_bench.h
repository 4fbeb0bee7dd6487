// tokenferry bench alltoall: the exchange alone, over axes of shapes, traffics and paths, beside its baselines.
#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "bench/alltoall/baselines.h"
#include "bench/alltoall/bytes.h"
#include "bench/alltoall/machine_bounds.h"
#include "bench/alltoall/problem.h"
#include "bench/measure/statistics.h"
#include "comm/exchange/exchange.h"

namespace tokenferry {

// What a benchmark runs on; the same kind of thing on every rank.
struct BenchContext {
  Transport& transport;
  Device& device;
  const Topology& topology;
  Isa isa = Isa::kPortable;
  int num_threads = 1;
};

enum class RunBaselines : uint8_t { kYes, kNo };

// Every combination of the lists is a point; every path is run at every point.
struct AllToAllBenchOptions {
  std::vector<int64_t> tokens = {1, 8, 64, 512, 4096};
  std::vector<int64_t> hidden = {7168};
  std::vector<int> experts = {};  // empty: 256, or the trace's
  std::vector<int> top_k = {};    // empty: 8, or the trace's
  std::vector<DType> dtypes = {DType::kBF16};
  std::vector<DType> combine_dtypes = {DType::kF32};
  std::vector<ExchangePath> paths = {ExchangePath::kAuto};
  std::vector<Reduction> reductions = {Reduction::kExact};  // of paths two_level and auto; others run once
  std::vector<std::string> placements = {"linear"};
  std::vector<TrafficSpec> traffics = {TrafficSpec()};
  int warmup = 3;
  int iters = 20;
  RunBaselines baselines = RunBaselines::kYes;
  // By a host's ranks together, or by each GPU: far more than caches hold.
  int64_t memory_read_bytes = int64_t{256} << 20;
  std::string preset;  // a published setting (published.h) whose figures are to stand in the report; empty: none
};

// Microseconds: over the iterations of the largest of all ranks.
struct PhaseSummaries {
  Summary plan, dispatch, expert_read, combine, round_trip;
  Summary local_read;  // the expert side's reads alone, from own memory, of all ranks at once
  double overhead() const { return round_trip.median - local_read.median; }
};

struct BaselineResult {
  BaselineKind kind = BaselineKind::kMemcpy;
  std::string unavailable;  // why it was not run
  Summary round_trip;       // microseconds, as above
  BaselineSeconds median;   // of each step over the iterations, of the largest of all ranks; seconds
};

// Microseconds of one rank's own clock over the iterations: what it took itself, not the slowest rank.
struct RankTime {
  double min = 0, avg = 0, max = 0;
};
struct RankPhaseTimes {
  RankTime dispatch, combine, round_trip;
};
// Their names, in reports, and where they stand.
std::vector<std::pair<const char*, RankTime RankPhaseTimes::*>> RankPhases();

struct PathResult {
  ExchangePath path = ExchangePath::kAuto;
  Reduction reduction = Reduction::kExact;
  ExchangePath chosen = ExchangePath::kAuto;  // what kAuto has become
  std::string unavailable;                    // why this path was not run; empty: it was
  PhaseSummaries us;
  std::vector<RankPhaseTimes> per_rank_us;  // [R]
  double read_bytes_per_second = 0;         // of all ranks together, all reading at once, in turns with it: the median
  // Timed in turns with it; none without baselines. On CPUs kPerRank, on GPUs kNcclSendRecv.
  std::optional<BaselineResult> beside;
};

struct PointResult {
  BenchPoint point;
  int64_t num_tokens = 0;  // of all ranks
  int64_t num_missing = 0;
  RowBases rows;
  RowSkew skew;
  std::vector<PathResult> paths;
  std::vector<BaselineResult> baselines;  // those that are timed by themselves

  // Bytes of a row as it is dispatched, and of an expert output.
  int64_t row_bytes() const;
  int64_t output_bytes() const;
  // Bytes that one round trip cannot avoid: every selected row read once as experts read it, every expert output read
  // once, every sum written once; where rows are quantised, every token read and written once before.
  int64_t least_bytes() const;
};

struct AllToAllReport {
  int num_ranks = 1;
  std::string topology, transport, instruction_set, machine;
  DeviceKind device_kind = DeviceKind::kCpu;
  std::string device;  // rank 0's
  std::string preset;  // as in the options
  int num_threads = 1;
  int warmup = 0, iters = 0;
  double core_ratio_before = 0, core_ratio_after = 0;  // TwoCoreRatio
  std::vector<PointResult> points;
};

// Collective; the same report on every rank. Results are verified before and after they are timed. An error that all
// ranks have is marked as AgreeOnStatus does.
absl::StatusOr<AllToAllReport> RunAllToAllBench(const BenchContext& context, const AllToAllBenchOptions& options);

// One path at one point, over an exchange that the caller made.
absl::StatusOr<PhaseSummaries> TimeExchange(const BenchContext& context, Exchange& exchange, Reduction reduction,
                                            BenchProblem& problem, const AllToAllBenchOptions& options);

}  // namespace tokenferry

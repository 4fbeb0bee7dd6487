#include "bench/alltoall/alltoall_bench.h"

#include <algorithm>
#include <cmath>
#include <optional>

#include "bench/alltoall/memory_rate.h"
#include "bench/alltoall/round_trip.h"
#include "bench/measure/call_sites.h"
#include "comm/ops/row_codec_ops.h"
#include "comm/transport/collectives.h"
#include "comm/tuning/exchange_choice.h"
#include "core/host/machine.h"

namespace tokenferry {
namespace {

constexpr int kDefaultExperts = 256, kDefaultTopK = 8;

// `num_values` numbers of every iteration, largest over ranks: [num_values][iters].
absl::StatusOr<std::vector<std::vector<double>>> ByValue(Transport& transport, const std::vector<double>& samples,
                                                         size_t num_values) {
  TF_ASSIGN_OR_RETURN(const std::vector<double> largest, MaxOverRanks(transport, samples));
  std::vector<std::vector<double>> values(num_values);
  for (size_t i = 0; i < largest.size(); ++i) values[i % num_values].push_back(largest[i]);
  return values;
}

Summary Micros(std::vector<double> seconds) {
  for (double& s : seconds) s *= 1e6;
  return Summarize(std::move(seconds));
}

// A trace is read once, by every rank.
struct Traces {
  std::vector<std::optional<RoutingTrace>> by_traffic;
  const RoutingTrace* at(size_t i) const { return by_traffic[i] ? &*by_traffic[i] : nullptr; }
};

absl::StatusOr<Traces> ReadTraces(const std::vector<TrafficSpec>& traffics) {
  Traces traces;
  traces.by_traffic.resize(traffics.size());
  for (size_t i = 0; i < traffics.size(); ++i) {
    if (traffics[i].kind != TrafficSpec::Kind::kTrace) continue;
    TF_ASSIGN_OR_RETURN(traces.by_traffic[i], ReadRoutingTrace(traffics[i].file));
  }
  return traces;
}

struct PointAndTrace {
  BenchPoint point;
  const RoutingTrace* trace = nullptr;
};

// All shapes of one kind of point.
void AppendShapes(const AllToAllBenchOptions& options, const std::vector<int>& experts, const std::vector<int>& top_k,
                  BenchPoint point, const RoutingTrace* trace, std::vector<PointAndTrace>& points) {
  for (const int64_t hidden : options.hidden) {
    for (const int e : experts) {
      for (const int k : top_k) {
        for (const int64_t tokens : options.tokens) {
          point.hidden = hidden, point.num_experts = e, point.top_k = k, point.tokens = tokens;
          points.push_back({point, trace});
        }
      }
    }
  }
}

std::vector<PointAndTrace> MakePoints(const AllToAllBenchOptions& options, const Traces& traces) {
  std::vector<PointAndTrace> points;
  for (size_t i = 0; i < options.traffics.size(); ++i) {
    const RoutingTrace* trace = traces.at(i);
    const std::vector<int> experts = !options.experts.empty() ? options.experts
                                     : trace != nullptr       ? std::vector<int>{trace->num_experts}
                                                              : std::vector<int>{kDefaultExperts};
    const std::vector<int> top_k = !options.top_k.empty() ? options.top_k
                                   : trace != nullptr     ? std::vector<int>{trace->top_k}
                                                          : std::vector<int>{kDefaultTopK};
    BenchPoint p{.traffic = options.traffics[i]};
    for (const DType dtype : options.dtypes) {
      for (const DType combine_dtype : options.combine_dtypes) {
        for (const std::string& placement : options.placements) {
          p.dtype = dtype, p.combine_dtype = combine_dtype, p.placement = placement;
          AppendShapes(options, experts, top_k, p, trace, points);
        }
      }
    }
  }
  return points;
}

// Everything that can be refused is refused before anything is timed.
absl::Status CheckPoints(const std::vector<PointAndTrace>& points, int num_ranks) {
  for (const auto& [point, trace] : points) {
    TF_RETURN_IF_ERROR(CheckTraffic(point.traffic, {point.num_experts, point.top_k, point.seed}, trace));
    TF_RETURN_IF_ERROR(MakePlacement(point.placement, point.num_experts, num_ranks).status());
  }
  return absl::OkStatus();
}

// Whether a path that cannot be used is a result and not an error.
bool CannotRun(const absl::Status& status) {
  return absl::IsUnimplemented(status) || absl::IsFailedPrecondition(status);
}

constexpr double BaselineSeconds::*kSteps[] = {
    &BaselineSeconds::plan, &BaselineSeconds::pack,   &BaselineSeconds::forward, &BaselineSeconds::unpack,
    &BaselineSeconds::read, &BaselineSeconds::reduce, &BaselineSeconds::back,    &BaselineSeconds::sum};

// Runs and times a baseline, if it can be run here.
class BaselineTimer {
 public:
  // Collective.
  static absl::StatusOr<BaselineTimer> Create(const BenchContext& context, BenchProblem& problem, BaselineKind kind) {
    BaselineTimer timer(context.transport);
    timer.result_.kind = kind;
    auto baseline = CreateBaseline(kind, context.transport, context.device, problem);
    const absl::Status created = AgreeOnStatus(context.transport, kAgree, baseline.status());
    if (CannotRun(created)) {
      timer.result_.unavailable = std::string(created.message());
      return timer;
    }
    TF_RETURN_IF_ERROR(created);
    timer.baseline_ = *std::move(baseline);
    TF_RETURN_IF_ERROR(timer.baseline_->Verify());
    return timer;
  }

  // Collective.
  absl::Status Run(bool is_timed) {
    if (baseline_ == nullptr) return absl::OkStatus();
    TF_ASSIGN_OR_RETURN(const BaselineSeconds seconds, baseline_->Run());
    if (!is_timed) return absl::OkStatus();
    for (const auto step : kSteps) samples_.push_back(seconds.*step);
    samples_.push_back(seconds.round_trip());
    return absl::OkStatus();
  }

  // Collective, after the last Run.
  absl::StatusOr<BaselineResult> Finish() {
    if (baseline_ == nullptr) return result_;
    TF_RETURN_IF_ERROR(baseline_->Verify());
    TF_ASSIGN_OR_RETURN(const auto values, ByValue(*transport_, samples_, std::size(kSteps) + 1));
    for (size_t s = 0; s < std::size(kSteps); ++s) result_.median.*kSteps[s] = Summarize(values[s]).median;
    result_.round_trip = Micros(values.back());
    return result_;
  }

 private:
  explicit BaselineTimer(Transport& transport) : transport_(&transport) {}

  Transport* transport_;
  std::unique_ptr<Baseline> baseline_;
  BaselineResult result_;
  std::vector<double> samples_;
};

absl::StatusOr<BaselineResult> RunBaseline(const BenchContext& context, BenchProblem& problem, BaselineKind kind,
                                           const AllToAllBenchOptions& options) {
  TF_ASSIGN_OR_RETURN(BaselineTimer timer, BaselineTimer::Create(context, problem, kind));
  for (int i = -options.warmup; i < options.iters; ++i) TF_RETURN_IF_ERROR(timer.Run(/*is_timed=*/i >= 0));
  return timer.Finish();
}

// What an iteration is timed in: plan, dispatch, expert read, combine, round trip, meeting, local read.
constexpr size_t kNumSamples = 7;
constexpr std::pair<RankTime RankPhaseTimes::*, size_t> kRankSamples[] = {
    {&RankPhaseTimes::dispatch, 1}, {&RankPhaseTimes::combine, 3}, {&RankPhaseTimes::round_trip, 4}};

// Collective. samples[i * kNumSamples + j] = seconds of this rank in iteration i. Travels in nanoseconds.
absl::StatusOr<std::vector<RankPhaseTimes>> GatherRankTimes(Transport& transport, absl::Span<const double> samples) {
  std::vector<int64_t> mine;
  for (const auto& [phase, idx] : kRankSamples) {
    double min = samples.empty() ? 0 : samples[idx], max = min, sum = 0;
    for (size_t i = idx; i < samples.size(); i += kNumSamples) {
      min = std::min(min, samples[i]), max = std::max(max, samples[i]), sum += samples[i];
    }
    const double avg = samples.empty() ? 0 : sum / (static_cast<double>(samples.size()) / kNumSamples);
    for (const double seconds : {min, avg, max}) mine.push_back(std::llround(seconds * 1e9));
  }
  TF_ASSIGN_OR_RETURN(const auto all, GatherNumbers(transport, mine));
  std::vector<RankPhaseTimes> ranks(all.size());
  for (size_t r = 0; r < all.size(); ++r) {
    const int64_t* ns = all[r].data();
    for (const auto& [phase, idx] : kRankSamples) {
      ranks[r].*phase = {static_cast<double>(ns[0]) * 1e-3, static_cast<double>(ns[1]) * 1e-3,
                         static_cast<double>(ns[2]) * 1e-3};
      ns += 3;
    }
  }
  return ranks;
}

// Each iteration runs one after the other, so that a ratio is of times under the same conditions: the memory of a
// shared machine is faster in one second than in the next.
absl::Status TimeSideBySide(const BenchContext& context, Exchange& exchange, BenchProblem& problem,
                            const AllToAllBenchOptions& options, PathResult& result) {
  RoundTrip round_trip(context.transport, context.device, exchange, result.reduction, problem);
  TF_RETURN_IF_ERROR(AgreeOnStatus(context.transport, kAgree, round_trip.Prepare()));
  TF_RETURN_IF_ERROR(round_trip.Verify());
  std::optional<BaselineTimer> beside;
  if (options.baselines == RunBaselines::kYes) {
    const bool on_cpu = context.device.kind() == DeviceKind::kCpu;
    TF_ASSIGN_OR_RETURN(
        beside, BaselineTimer::Create(context, problem, on_cpu ? BaselineKind::kPerRank : BaselineKind::kNcclSendRecv));
  }
  auto memory_rate = GroupMemoryRate::Create(context, options.memory_read_bytes);
  TF_RETURN_IF_ERROR(AgreeOnStatus(context.transport, kAgree, memory_rate.status()));
  std::vector<double> samples, read_rates;
  for (int i = -options.warmup; i < options.iters; ++i) {
    TF_ASSIGN_OR_RETURN(const double read_rate, (*memory_rate)->Run());
    TF_ASSIGN_OR_RETURN(const PhaseSeconds s, round_trip.Run());
    TF_ASSIGN_OR_RETURN(const LocalReadSeconds local, round_trip.LocalRead());
    if (beside) TF_RETURN_IF_ERROR(beside->Run(/*is_timed=*/i >= 0));
    if (i < 0) continue;
    read_rates.push_back(read_rate);
    samples.insert(samples.end(),
                   {s.plan, s.dispatch, s.expert_read, s.combine, s.round_trip(), local.meet, local.read});
  }
  TF_RETURN_IF_ERROR(round_trip.Verify());
  if (beside) {
    TF_ASSIGN_OR_RETURN(result.beside, beside->Finish());
  }
  TF_ASSIGN_OR_RETURN(result.per_rank_us, GatherRankTimes(context.transport, samples));
  TF_ASSIGN_OR_RETURN(auto values, ByValue(context.transport, samples, kNumSamples));
  result.read_bytes_per_second = Summarize(std::move(read_rates)).median;
  const double meet = Summarize(values[5]).median;
  for (double& seconds : values[6]) seconds -= meet;
  result.us = {.plan = Micros(values[0]),
               .dispatch = Micros(values[1]),
               .expert_read = Micros(values[2]),
               .combine = Micros(values[3]),
               .round_trip = Micros(values[4]),
               .local_read = Micros(values[6])};
  return absl::OkStatus();
}

absl::StatusOr<PathResult> RunPath(const BenchContext& context, BenchProblem& problem, ExchangePath path,
                                   Reduction reduction, const AllToAllBenchOptions& options) {
  PathResult result{.path = path, .reduction = reduction};
  const BenchPoint& p = problem.point();
  auto exchange = CreateExchange(context.transport, context.device,
                                 {.hidden = p.hidden,
                                  .wire_dtype = p.dtype,
                                  .expert_dtype = p.given_dtype(),
                                  .output_dtype = p.combine_dtype,
                                  .path = path,
                                  .reduction = reduction,
                                  .max_tokens = std::max<int64_t>(1, p.tokens),
                                  .max_top_k = p.top_k});
  const absl::Status created = AgreeOnStatus(context.transport, kAgree, exchange.status());
  if (CannotRun(created)) {
    result.unavailable = std::string(created.message());
    return result;
  }
  TF_RETURN_IF_ERROR(created);
  TF_RETURN_IF_ERROR(TimeSideBySide(context, **exchange, problem, options, result));
  result.chosen = (*exchange)->path();
  return result;
}

absl::Status CountPoint(const BenchContext& context, const BenchProblem& problem, PointResult* result) {
  const std::vector<int64_t> mine =
      EncodeCounts(CountRows(problem.host_routing(), problem.placement(), context.topology));
  TF_ASSIGN_OR_RETURN(const auto all, GatherNumbers(context.transport, mine));
  std::vector<RowCounts> counts;
  for (const std::vector<int64_t>& theirs : all) {
    counts.push_back(DecodeCounts(theirs, context.topology, problem.point().num_experts));
    result->num_missing += counts.back().num_missing;
  }
  TF_ASSIGN_OR_RETURN(const auto tokens, GatherNumbers(context.transport, {problem.num_tokens()}));
  for (const auto& theirs : tokens) result->num_tokens += theirs[0];
  result->rows = SumBases(counts, context.topology);
  result->skew = MeasureSkew(counts);
  return absl::OkStatus();
}

absl::StatusOr<PointResult> RunPoint(const BenchContext& context, const PointAndTrace& point_and_trace,
                                     const AllToAllBenchOptions& options) {
  const auto& [point, trace] = point_and_trace;
  TF_ASSIGN_OR_RETURN(Placement placement,
                      MakePlacement(point.placement, point.num_experts, context.transport.num_ranks()));
  placement.SetHosts(context.topology.host_idx_per_rank);
  auto problem = BenchProblem::Create(context.transport, context.device, point, std::move(placement), trace);
  TF_RETURN_IF_ERROR(AgreeOnStatus(context.transport, kAgree, problem.status()));
  PointResult result{.point = point};
  TF_RETURN_IF_ERROR(CountPoint(context, **problem, &result));
  for (const ExchangePath path : options.paths) {
    const bool can_reduce = path == ExchangePath::kTwoLevel || path == ExchangePath::kAuto;
    for (const Reduction reduction : can_reduce ? options.reductions : std::vector{Reduction::kExact}) {
      TF_ASSIGN_OR_RETURN(PathResult path_result, RunPath(context, **problem, path, reduction, options));
      result.paths.push_back(std::move(path_result));
    }
  }
  if (options.baselines == RunBaselines::kNo) return result;
  const bool on_cpu = context.device.kind() == DeviceKind::kCpu;
  for (const BaselineKind kind :
       on_cpu ? std::vector{BaselineKind::kMemcpy, BaselineKind::kAllToAllV, BaselineKind::kPerExpert}
              : std::vector{BaselineKind::kMemcpy, BaselineKind::kNcclPadded}) {
    TF_ASSIGN_OR_RETURN(BaselineResult baseline, RunBaseline(context, **problem, kind, options));
    result.baselines.push_back(std::move(baseline));
  }
  return result;
}

}  // namespace

std::vector<std::pair<const char*, RankTime RankPhaseTimes::*>> RankPhases() {
  return {{"dispatch", &RankPhaseTimes::dispatch},
          {"combine", &RankPhaseTimes::combine},
          {"round_trip", &RankPhaseTimes::round_trip}};
}

int64_t PointResult::row_bytes() const { return RowBytes(point.dtype, point.hidden); }
int64_t PointResult::output_bytes() const { return point.hidden * DTypeBytes(point.combine_dtype); }

int64_t PointResult::least_bytes() const {
  const int64_t read_bytes = point.hidden * DTypeBytes(point.given_dtype());
  const int64_t convert_bytes = IsQuantised(point.dtype) ? read_bytes + row_bytes() : 0;
  const int64_t sum_bytes = point.hidden * static_cast<int64_t>(sizeof(float));
  return num_tokens * (convert_bytes + sum_bytes) + rows.selection * (read_bytes + output_bytes());
}

absl::StatusOr<PhaseSummaries> TimeExchange(const BenchContext& context, Exchange& exchange, Reduction reduction,
                                            BenchProblem& problem, const AllToAllBenchOptions& options) {
  PathResult result{.reduction = reduction};
  TF_RETURN_IF_ERROR(TimeSideBySide(context, exchange, problem, options, result));
  return result.us;
}

absl::StatusOr<AllToAllReport> RunAllToAllBench(const BenchContext& context, const AllToAllBenchOptions& options) {
  auto traces = ReadTraces(options.traffics);
  TF_RETURN_IF_ERROR(AgreeOnStatus(context.transport, kAgree, traces.status()));
  const std::vector<PointAndTrace> points = MakePoints(options, *traces);
  TF_RETURN_IF_ERROR(AgreeOnStatus(context.transport, kAgree, CheckPoints(points, context.transport.num_ranks())));
  AllToAllReport report{.num_ranks = context.transport.num_ranks(),
                        .topology = context.topology.ToString(),
                        .transport = context.transport.ToString(),
                        .instruction_set = std::string(IsaName(context.isa)),
                        .machine = MachineDescription(),
                        .device_kind = context.device.kind(),
                        .device = context.device.ToString(),
                        .preset = options.preset,
                        .num_threads = context.num_threads,
                        .warmup = options.warmup,
                        .iters = options.iters};
  TF_ASSIGN_OR_RETURN(report.core_ratio_before, TwoCoreRatioOfGroup(context.transport, context.isa));
  for (const PointAndTrace& point : points) {
    TF_ASSIGN_OR_RETURN(PointResult result, RunPoint(context, point, options));
    report.points.push_back(std::move(result));
  }
  TF_ASSIGN_OR_RETURN(report.core_ratio_after, TwoCoreRatioOfGroup(context.transport, context.isa));
  return report;
}

}  // namespace tokenferry

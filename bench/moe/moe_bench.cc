#include "bench/moe/moe_bench.h"

#include "bench/alltoall/memory_rate.h"
#include "bench/alltoall/round_trip.h"
#include "bench/measure/call_sites.h"
#include "bench/moe/timed_layer.h"
#include "comm/transport/collectives.h"
#include "core/host/machine.h"

namespace tokenferry {
namespace {

constexpr int64_t kMemoryRateBytes = int64_t{256} << 20;  // beyond the caches of a GPU

// What all ranks' choices cost: each chosen expert's weights are read once, each selection is computed.
absl::Status CountWork(const BenchContext& context, const TimedLayer& layer, MoeResult* result) {
  std::vector<int64_t> mine(result->shape.num_experts);
  for (const int32_t e : layer.expert_idx()) {
    if (e >= 0) ++mine[e];
  }
  TF_ASSIGN_OR_RETURN(const auto all, GatherNumbers(context.transport, mine));
  for (int e = 0; e < result->shape.num_experts; ++e) {
    int64_t selections = 0;
    for (const auto& theirs : all) selections += theirs[e];
    if (selections > 0) result->weight_bytes += RandomExpert::NumBytes(result->shape, result->weight_dtype);
    result->flops += 6.0 * static_cast<double>(selections * result->shape.hidden * result->shape.intermediate);
  }
  return absl::OkStatus();
}

absl::Status TimeLayer(const BenchContext& context, TimedLayer& layer, const MoeBenchOptions& options,
                       MoeResult* result) {
  TF_RETURN_IF_ERROR(layer.Verify());
  std::vector<double> samples;
  for (int i = -options.warmup; i < options.iters; ++i) {
    TF_ASSIGN_OR_RETURN(const MoeSeconds s, layer.Run());
    if (i < 0) continue;
    for (const double v : {s.route, s.plan, s.dispatch, s.experts, s.combine, s.layer()}) samples.push_back(v * 1e6);
  }
  TF_RETURN_IF_ERROR(layer.Verify());
  TF_ASSIGN_OR_RETURN(const std::vector<double> largest, MaxOverRanks(context.transport, samples));
  Summary* const phases[] = {&result->route,   &result->plan,    &result->dispatch,
                             &result->experts, &result->combine, &result->layer};
  for (size_t p = 0; p < std::size(phases); ++p) {
    std::vector<double> values;
    for (size_t i = p; i < largest.size(); i += std::size(phases)) values.push_back(largest[i]);
    *phases[p] = Summarize(std::move(values));
  }
  return CountWork(context, layer, result);
}

absl::StatusOr<MoeResult> RunMoe(const BenchContext& context, const MoeBenchOptions& options, const RandomLayer& random,
                                 int top_k, ExchangePath path) {
  MoeResult result{.shape = random.shape, .top_k = top_k, .weight_dtype = random.dtype, .path = path};
  auto layer =
      MoeLayer::Create(context.transport, context.device, random.placement, random.shape, {.exchange = {.path = path}});
  const absl::Status created = AgreeOnStatus(context.transport, kAgree, layer.status());
  if (absl::IsUnimplemented(created) || absl::IsFailedPrecondition(created)) {
    result.unavailable = std::string(created.message());
    return result;
  }
  TF_RETURN_IF_ERROR(created);
  auto timed = TimedLayer::Create(context, **layer, random, options.router, top_k);
  TF_RETURN_IF_ERROR(AgreeOnStatus(context.transport, kAgree, timed.status()));
  TF_RETURN_IF_ERROR(TimeLayer(context, **timed, options, &result));
  TF_ASSIGN_OR_RETURN(std::unique_ptr<Stream> stream, context.device.CreateStream());
  TF_ASSIGN_OR_RETURN(const ExchangeStats stats, (*layer)->exchange_stats(*stream));
  result.chosen = stats.path;
  return result;
}

absl::Status CheckShape(const BenchContext& context, const MoeBenchOptions& options, const MoeShape& shape) {
  const int top_k = shape.router.top_k;
  if (top_k > shape.num_experts) {
    return absl::InvalidArgumentError(
        absl::StrCat("--top-k ", top_k, " of --experts ", shape.num_experts, ": there are not so many"));
  }
  return CheckBenchRouter(options.router, top_k, context.device.kind());
}

// shape.router.top_k: as the flag says.
absl::Status RunShape(const BenchContext& context, const MoeBenchOptions& options, MoeShape shape, DType weight_dtype,
                      MoeReport* report) {
  TF_RETURN_IF_ERROR(AgreeOnStatus(context.transport, kAgree, CheckShape(context, options, shape)));
  const int top_k = shape.router.top_k;
  shape.router.top_k = RoutingColumns(options.router, top_k, shape.num_experts);
  auto random = RandomLayer::Create(context, shape, weight_dtype);
  TF_RETURN_IF_ERROR(AgreeOnStatus(context.transport, kAgree, random.status()));
  for (const int64_t tokens : options.tokens) {
    (*random)->shape.max_tokens = tokens;
    for (const ExchangePath path : options.paths) {
      TF_ASSIGN_OR_RETURN(MoeResult result, RunMoe(context, options, **random, top_k, path));
      report->results.push_back(std::move(result));
    }
  }
  return absl::OkStatus();
}

// Of all ranks together. On GPUs of their memory alone: the bound of what computes there is not measured.
absl::StatusOr<MachineBounds> GroupBounds(const BenchContext& context) {
  if (context.device.kind() != DeviceKind::kCpu) {
    auto rate = GroupMemoryRate::Create(context, kMemoryRateBytes);
    TF_RETURN_IF_ERROR(AgreeOnStatus(context.transport, kAgree, rate.status()));
    MachineBounds fastest;
    for (int i = 0; i < 3; ++i) {
      TF_ASSIGN_OR_RETURN(const double bytes_per_second, (*rate)->Run());
      fastest.read_bytes_per_second = std::max(fastest.read_bytes_per_second, bytes_per_second);
    }
    return fastest;
  }
  ThreadPool pool(context.num_threads);
  TF_RETURN_IF_ERROR(Barrier(context.transport, kAgree));
  const MachineBounds mine = MeasureBounds(pool, context.isa, MonotonicSeconds);
  TF_ASSIGN_OR_RETURN(const auto all,
                      GatherNumbers(context.transport, {static_cast<int64_t>(mine.read_bytes_per_second),
                                                        static_cast<int64_t>(mine.flops_per_second)}));
  MachineBounds sum;
  for (const auto& theirs : all) {
    sum.read_bytes_per_second += static_cast<double>(theirs[0]);
    sum.flops_per_second += static_cast<double>(theirs[1]);
  }
  return sum;
}

}  // namespace

absl::StatusOr<MoeReport> RunMoeBench(const BenchContext& context, const MoeBenchOptions& options) {
  MoeReport report{.num_ranks = context.transport.num_ranks(),
                   .num_threads = context.num_threads,
                   .router = options.router,
                   .topology = context.topology.ToString(),
                   .instruction_set = std::string(IsaName(context.isa)),
                   .machine = MachineDescription(),
                   .device = context.device.ToString()};
  TF_ASSIGN_OR_RETURN(report.core_ratio_before, TwoCoreRatioOfGroup(context.transport, context.isa));
  TF_ASSIGN_OR_RETURN(report.bounds, GroupBounds(context));
  for (const DType dtype : options.weight_dtypes) {
    for (const int64_t hidden : options.hidden) {
      for (const int64_t intermediate : options.intermediate) {
        for (const int experts : options.experts) {
          for (const int top_k : options.top_k) {
            const MoeShape shape{.hidden = hidden,
                                 .intermediate = intermediate,
                                 .num_experts = experts,
                                 .router = {.renormalise = Renormalise::kYes, .top_k = top_k},
                                 .compute = options.compute};
            TF_RETURN_IF_ERROR(RunShape(context, options, shape, dtype, &report));
          }
        }
      }
    }
  }
  TF_ASSIGN_OR_RETURN(report.core_ratio_after, TwoCoreRatioOfGroup(context.transport, context.isa));
  return report;
}

}  // namespace tokenferry

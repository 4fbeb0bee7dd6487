#include "bench/moe/moe_bench.h"

#include <nlohmann/json.hpp>

#include "absl/strings/str_format.h"
#include "bench/alltoall/memory_rate.h"
#include "bench/alltoall/round_trip.h"
#include "bench/measure/call_sites.h"
#include "bench/moe/timed_layer.h"
#include "comm/transport/collectives.h"
#include "core/host/machine.h"
#include "core/io/json_writer.h"

namespace tokenferry {
namespace {

using Json = nlohmann::ordered_json;
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

struct MoeRates {
  double tokens_per_second = 0, gflops = 0, weight_gbps = 0, of_bound = 0;
};

MoeRates RatesOf(const MoeReport& r, const MoeResult& m) {
  const double layer = m.layer.median * 1e-6, experts = m.experts.median * 1e-6;
  const auto bytes = static_cast<double>(m.weight_bytes);
  const double reading = bytes / r.bounds.read_bytes_per_second;
  const double computing = r.bounds.flops_per_second > 0 ? m.flops / r.bounds.flops_per_second : 0;
  return {static_cast<double>(m.shape.max_tokens * r.num_ranks) / layer, m.flops / experts * 1e-9,
          bytes / experts * 1e-9, std::max(reading, computing) / experts};
}

const char* WeightsName(DType dtype) {
  return dtype == DType::kBF16 ? "bf16" : dtype == DType::kF8E4M3 ? "fp8" : "f32";
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

std::string MoeTable(const MoeReport& r) {
  std::string table = absl::StrFormat(
      "%s\n%s, rank 0 on %s, %d threads each, router %s; median microseconds of the slowest rank, results verified\n"
      "two-core ratio %.2f before, %.2f after; ",
      r.machine, r.topology, r.device, r.num_threads, BenchRouterName(r.router), r.core_ratio_before,
      r.core_ratio_after);
  const double gbps = r.bounds.read_bytes_per_second * 1e-9, gflops = r.bounds.flops_per_second * 1e-9;
  if (gflops > 0) {
    absl::StrAppendFormat(&table, "all ranks together read %.1f GB/s, %.0f GFLOP/s of f32 multiply-adds\n\n", gbps,
                          gflops);
  } else {
    absl::StrAppendFormat(&table, "all GPUs together copy in their memory, read and written, %.1f GB/s\n\n", gbps);
  }
  absl::StrAppend(
      &table, absl::StrFormat("%7s %6s %6s %9s %-5s %-12s %9s %9s %10s %11s %10s %11s %10s %9s %8s %6s\n", "tokens",
                              "hidden", "inner", "top-k/of", "dtype", "path", "route", "plan", "dispatch", "experts",
                              "combine", "layer", "tokens/s", "GFLOP/s", "w.GB/s", "bound"));
  for (const MoeResult& m : r.results) {
    absl::StrAppend(&table, absl::StrFormat("%7d %6d %6d %4d/%-4d %-5s %-12s ", m.shape.max_tokens, m.shape.hidden,
                                            m.shape.intermediate, m.top_k, m.shape.num_experts,
                                            WeightsName(m.weight_dtype), ExchangePathName(m.path)));
    if (!m.unavailable.empty()) {
      absl::StrAppend(&table, "not available: ", m.unavailable, "\n");
      continue;
    }
    const MoeRates rates = RatesOf(r, m);
    absl::StrAppend(
        &table, absl::StrFormat("%9.1f %9.1f %10.1f %11.1f %10.1f %11.1f %10.0f %9.1f %8.2f %5.0f%%\n", m.route.median,
                                m.plan.median, m.dispatch.median, m.experts.median, m.combine.median, m.layer.median,
                                rates.tokens_per_second, rates.gflops, rates.weight_gbps, 100 * rates.of_bound));
  }
  return table;
}

std::string MoeJson(const MoeReport& r) {
  const auto summary = [](const Summary& s) -> Json {
    return {{"min_us", s.min}, {"median_us", s.median}, {"p95_us", s.p95}, {"max_us", s.max}};
  };
  Json json = {{"benchmark", "moe"},
               {"machine",
                {{"description", r.machine},
                 {"topology", r.topology},
                 {"ranks", r.num_ranks},
                 {"threads_per_rank", r.num_threads},
                 {"instruction_set", r.instruction_set},
                 {"device", r.device},
                 {"two_core_ratio", {{"before", r.core_ratio_before}, {"after", r.core_ratio_after}}},
                 {"read_gbps", r.bounds.read_bytes_per_second * 1e-9},
                 {"gflops", r.bounds.flops_per_second * 1e-9}}},
               {"router", BenchRouterName(r.router)},
               {"results", Json::array()}};
  if (r.bounds.flops_per_second == 0) json["machine"].erase("gflops");  // not measured
  for (const MoeResult& m : r.results) {
    const MoeShape& shape = m.shape;
    Json result = {
        {"tokens", shape.max_tokens},      {"hidden", shape.hidden}, {"intermediate", shape.intermediate},
        {"experts", shape.num_experts},    {"top_k", m.top_k},       {"weights", WeightsName(m.weight_dtype)},
        {"path", ExchangePathName(m.path)}};
    if (!m.unavailable.empty()) {
      result["unavailable"] = m.unavailable;
    } else {
      const MoeRates rates = RatesOf(r, m);
      result["chosen_path"] = ExchangePathName(m.chosen);
      result["verified"] = true;  // a run whose results are wrong ends with an error
      result["phases"] = {{"route", summary(m.route)},       {"plan", summary(m.plan)},
                          {"dispatch", summary(m.dispatch)}, {"experts", summary(m.experts)},
                          {"combine", summary(m.combine)},   {"layer", summary(m.layer)}};
      result["tokens_per_second"] = rates.tokens_per_second;
      result["expert_gflops"] = rates.gflops;
      result["weight_gbps"] = rates.weight_gbps;
      result["of_bound"] = rates.of_bound;
    }
    json["results"].push_back(std::move(result));
  }
  return FormatJson(json) + "\n";
}

}  // namespace tokenferry

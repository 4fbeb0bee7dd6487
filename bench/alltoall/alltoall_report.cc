#include "bench/alltoall/alltoall_report.h"

#include <map>
#include <nlohmann/json.hpp>

#include "absl/strings/ascii.h"
#include "absl/strings/str_format.h"
#include "bench/measure/svg_plot.h"

namespace tokenferry {
namespace {

using Json = nlohmann::ordered_json;

Json ToJson(const Summary& s) {
  return {{"min_us", s.min}, {"median_us", s.median}, {"p95_us", s.p95}, {"max_us", s.max}};
}

// The values of --dtype and --combine-dtype.
std::string DTypeFlag(DType dtype) {
  if (dtype == DType::kF8E4M3) return "fp8";
  if (dtype == DType::kI8) return "int8";
  return absl::AsciiStrToLower(DTypeName(dtype));
}

std::string DTypes(const BenchPoint& p) { return absl::StrCat(DTypeFlag(p.dtype), "/", DTypeFlag(p.combine_dtype)); }

// Bytes on the four bases, all ranks together.
Json BasesJson(const RowBases& rows, int64_t row_bytes) {
  return {{"selection", rows.selection * row_bytes},
          {"rank", rows.rank * row_bytes},
          {"node", rows.node * row_bytes},
          {"wire", rows.wire * row_bytes}};
}

// The same per rank and second.
Json RatesJson(const RowBases& rows, int64_t row_bytes, double seconds, int num_ranks) {
  const auto rate = [&](int64_t n) { return Gbps(static_cast<double>(n * row_bytes) / num_ranks, seconds); };
  return {{"selection", rate(rows.selection)},
          {"rank", rate(rows.rank)},
          {"node", rate(rows.node)},
          {"wire", rate(rows.wire)}};
}

struct Rates {
  double dispatch_algbw = 0, combine_algbw = 0;  // 10^9 bytes/s
};

Rates RatesOf(const PointResult& p, const PathResult& path) {
  return {Gbps(static_cast<double>(p.skew.busiest_rank_rows * p.row_bytes()), path.us.dispatch.median * 1e-6),
          Gbps(static_cast<double>(p.skew.busiest_rank_selections * p.output_bytes()), path.us.combine.median * 1e-6)};
}

// Time that reading and writing the least bytes takes at the measured bandwidth, over the round trip's.
double OfBound(const PointResult& p, const PathResult& path) {
  return static_cast<double>(p.least_bytes()) / path.read_bytes_per_second / (path.us.round_trip.median * 1e-6);
}

double PlanShare(const PathResult& path) { return path.us.plan.median / path.us.round_trip.median; }

// How many times the path's time a baseline takes; overhead is what comes on top of reading the rows locally.
double Ratio(const BaselineResult& b, const PathResult& path) {
  return b.round_trip.median / path.us.round_trip.median;
}
double OverheadRatio(const BaselineResult& b, const PathResult& path) {
  return (b.round_trip.median - path.us.local_read.median) / path.us.overhead();
}

// Null when it was not run.
const BaselineResult* PerRank(const PathResult& path) {
  return path.per_rank && path.per_rank->unavailable.empty() ? &*path.per_rank : nullptr;
}

Json BaselineJson(const BaselineResult& b, const PathResult& path) {
  if (!b.unavailable.empty()) return {{"unavailable", b.unavailable}};
  Json json = {{"round_trip", ToJson(b.round_trip)}};
  const std::pair<const char*, double> steps[] = {
      {"plan", b.median.plan}, {"pack", b.median.pack},     {"forward", b.median.forward}, {"unpack", b.median.unpack},
      {"read", b.median.read}, {"reduce", b.median.reduce}, {"back", b.median.back},       {"sum", b.median.sum}};
  for (const auto& [name, seconds] : steps) json["median_us"][name] = seconds * 1e6;
  if (b.kind == BaselineKind::kMemcpy || b.kind == BaselineKind::kAllToAllV) return json;
  json["overhead_us"] = b.round_trip.median - path.us.local_read.median;
  json["round_trip_over_this"] = Ratio(b, path);
  json["overhead_over_this"] = OverheadRatio(b, path);
  return json;
}

Json ResultJson(const AllToAllReport& r, const PointResult& p, const PathResult& path) {
  Json json = {{"tokens", p.point.tokens},
               {"hidden", p.point.hidden},
               {"experts", p.point.num_experts},
               {"top_k", p.point.top_k},
               {"dtype", DTypeFlag(p.point.dtype)},
               {"combine_dtype", DTypeFlag(p.point.combine_dtype)},
               {"placement", p.point.placement},
               {"traffic", p.point.traffic.text},
               {"path", ExchangePathName(path.path)},
               {"reduction", path.reduction == Reduction::kNode ? "node" : "exact"},
               {"ranks", r.num_ranks},
               {"warmup", r.warmup},
               {"iters", r.iters}};
  if (!path.unavailable.empty()) {
    json["unavailable"] = path.unavailable;
    return json;
  }
  const int64_t row_bytes = p.row_bytes(), out_bytes = p.output_bytes();
  const Rates rates = RatesOf(p, path);
  json["chosen_path"] = ExchangePathName(path.chosen);
  json["verified"] = true;  // a run whose results are wrong ends with an error
  json["phases"] = {{"plan", ToJson(path.us.plan)},
                    {"dispatch", ToJson(path.us.dispatch)},
                    {"expert_read", ToJson(path.us.expert_read)},
                    {"combine", ToJson(path.us.combine)},
                    {"round_trip", ToJson(path.us.round_trip)}};
  json["local_read"] = ToJson(path.us.local_read);
  json["overhead_us"] = path.us.overhead();
  json["bytes"] = {{"dispatch", BasesJson(p.rows, row_bytes)},
                   {"combine", BasesJson(p.rows, out_bytes)},
                   {"least", p.least_bytes()}};
  json["gbps"] = {{"dispatch", RatesJson(p.rows, row_bytes, path.us.dispatch.median * 1e-6, r.num_ranks)},
                  {"combine", RatesJson(p.rows, out_bytes, path.us.combine.median * 1e-6, r.num_ranks)}};
  json["algbw_gbps"] = {{"dispatch", rates.dispatch_algbw}, {"combine", rates.combine_algbw}};
  json["busbw_gbps"] = {{"dispatch", BusBandwidth(rates.dispatch_algbw, r.num_ranks)},
                        {"combine", BusBandwidth(rates.combine_algbw, r.num_ranks)}};
  json["memory_read_gbps"] = path.read_bytes_per_second * 1e-9;
  json["of_memory_bound"] = OfBound(p, path);
  json["plan_share"] = PlanShare(path);
  if (const BaselineResult* mpi = PerRank(path); mpi != nullptr) {
    json["mpi_row_per_rank_over_this"] = {{"round_trip", Ratio(*mpi, path)}, {"overhead", OverheadRatio(*mpi, path)}};
  }
  json["padding_waste"] = p.skew.padding_waste;
  json["imbalance"] = {
      {"rank", p.skew.rank_imbalance}, {"expert", p.skew.expert_imbalance}, {"pair", p.skew.pair_imbalance}};
  json["missing_selections"] = p.num_missing;
  if (path.per_rank) json["baselines"][BaselineName(path.per_rank->kind)] = BaselineJson(*path.per_rank, path);
  for (const BaselineResult& b : p.baselines) json["baselines"][BaselineName(b.kind)] = BaselineJson(b, path);
  return json;
}

std::string PathLabel(const PathResult& path) {
  const char* const node = path.reduction == Reduction::kNode ? " node" : "";
  if (path.path != ExchangePath::kAuto) return absl::StrCat(ExchangePathName(path.path), node);
  return absl::StrCat("auto>", ExchangePathName(path.chosen), node);
}

std::string BaselineRow(const BaselineResult& b) {
  const std::string name = absl::StrFormat("%69s%-18s", "", BaselineName(b.kind));
  if (!b.unavailable.empty()) return absl::StrCat(name, " not available: ", b.unavailable, "\n");
  return absl::StrCat(name, absl::StrFormat("%5.1f %10.1f %10.1f %10.1f %11.1f %11.1f\n", b.median.plan * 1e6,
                                            (b.median.pack + b.median.forward + b.median.unpack) * 1e6,
                                            b.median.read * 1e6, (b.median.reduce + b.median.back + b.median.sum) * 1e6,
                                            b.round_trip.median, b.round_trip.p95));
}

std::string PathRow(const PointResult& p, const PathResult& path) {
  std::string row = absl::StrFormat("%7d %6d %4d/%-4d %-9s %-12s %-14s ", p.point.tokens, p.point.hidden, p.point.top_k,
                                    p.point.num_experts, DTypes(p.point), p.point.placement, p.point.traffic.text);
  if (!path.unavailable.empty()) {
    return absl::StrCat(row, absl::StrFormat("%-14s", PathLabel(path)), " not available: ", path.unavailable, "\n");
  }
  const Rates rates = RatesOf(p, path);
  absl::StrAppend(
      &row, absl::StrFormat("%-14s %9.1f %10.1f %10.1f %10.1f %11.1f %11.1f %10.1f %7.2f %7.2f %7.2f %5.0f%% %4.1f%%",
                            PathLabel(path), path.us.plan.median, path.us.dispatch.median, path.us.expert_read.median,
                            path.us.combine.median, path.us.round_trip.median, path.us.round_trip.p95,
                            path.us.overhead(), rates.dispatch_algbw, rates.combine_algbw,
                            path.read_bytes_per_second * 1e-9, 100 * OfBound(p, path), 100 * PlanShare(path)));
  if (const BaselineResult* mpi = PerRank(path); mpi != nullptr) {
    absl::StrAppend(&row, absl::StrFormat(" %7.2f %8.2f", Ratio(*mpi, path), OverheadRatio(*mpi, path)));
  }
  return absl::StrCat(row, "\n", path.per_rank ? BaselineRow(*path.per_rank) : "");
}

}  // namespace

std::string ReportTable(const AllToAllReport& r) {
  std::string table = absl::StrFormat(
      "%s\n%s, %d threads each, %s; %d iterations after %d; median microseconds of the slowest rank, results verified\n"
      "two-core ratio %.2f before, %.2f after\n\n",
      r.machine, r.topology, r.num_threads, r.instruction_set, r.iters, r.warmup, r.core_ratio_before,
      r.core_ratio_after);
  absl::StrAppend(
      &table, absl::StrFormat(
                  "%7s %6s %9s %-9s %-12s %-14s %-14s %9s %10s %10s %10s %11s %11s %10s %7s %7s %7s %6s %5s %7s %8s\n",
                  "tokens", "hidden", "top-k/of", "dtype", "placement", "traffic", "path", "plan", "dispatch", "read",
                  "combine", "round trip", "p95", "overhead", "d.GB/s", "c.GB/s", "m.GB/s", "bound", "plan", "vs MPI",
                  "overhead"));
  for (const PointResult& p : r.points) {
    for (const PathResult& path : p.paths) absl::StrAppend(&table, PathRow(p, path));
    for (const BaselineResult& b : p.baselines) absl::StrAppend(&table, BaselineRow(b));
  }
  return table;
}

std::string ReportJson(const AllToAllReport& r) {
  Json json = {{"benchmark", "alltoall"},
               {"machine",
                {{"description", r.machine},
                 {"topology", r.topology},
                 {"ranks", r.num_ranks},
                 {"threads_per_rank", r.num_threads},
                 {"transport", r.transport},
                 {"instruction_set", r.instruction_set},
                 {"two_core_ratio", {{"before", r.core_ratio_before}, {"after", r.core_ratio_after}}}}},
               {"results", Json::array()}};
  for (const PointResult& p : r.points) {
    for (const PathResult& path : p.paths) json["results"].push_back(ResultJson(r, p, path));
  }
  return json.dump(2) + "\n";
}

std::string ReportSvg(const AllToAllReport& r) {
  std::vector<PlotSeries> series;
  std::map<std::string, size_t> by_name;
  const auto add = [&](const PointResult& p, const std::string& what, double us) {
    const std::string name =
        absl::StrCat(what, ", ", DTypes(p.point), ", ", p.point.traffic.text, p.point.placement == "linear" ? "" : ", ",
                     p.point.placement == "linear" ? "" : p.point.placement, ", ", p.point.top_k, "/",
                     p.point.num_experts, " x ", p.point.hidden);
    const auto [it, is_new] = by_name.emplace(name, series.size());
    if (is_new) series.push_back({name, {}});
    series[it->second].points.emplace_back(static_cast<double>(p.point.tokens), us);
  };
  for (const PointResult& p : r.points) {
    for (const PathResult& path : p.paths) {
      if (path.unavailable.empty()) add(p, PathLabel(path), path.us.round_trip.median);
      if (const BaselineResult* mpi = PerRank(path); mpi != nullptr) {
        add(p, absl::StrCat(BaselineName(mpi->kind), " beside ", PathLabel(path)), mpi->round_trip.median);
      }
    }
    for (const BaselineResult& b : p.baselines) {
      if (b.unavailable.empty()) add(p, BaselineName(b.kind), b.round_trip.median);
    }
  }
  return RenderSvg({.title = absl::StrCat("dispatch and combine, ", r.topology),
                    .x_label = "tokens per rank",
                    .y_label = "round trip, microseconds",
                    .series = std::move(series)});
}

}  // namespace tokenferry

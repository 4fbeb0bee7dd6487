#include <algorithm>
#include <utility>

#include "absl/strings/str_format.h"
#include "bench/measure/machine_json.h"
#include "bench/moe/moe_bench.h"
#include "core/io/json_writer.h"
#include "core/io/report_figures.h"

namespace tokenferry {
namespace {

struct MoeRow {
  const MoeReport& report;
  const MoeResult& result;
};
using MoeColumn = FigureColumn<MoeRow>;
using MoeValue = std::function<Cell(const MoeRow&)>;

const char* WeightsName(DType dtype) {
  return dtype == DType::kBF16 ? "bf16" : dtype == DType::kF8E4M3 ? "fp8" : "f32";
}

// "auto>peer", "alltoallv".
std::string PathLabel(const MoeResult& m) {
  if (m.path != ExchangePath::kAuto || !m.unavailable.empty()) return ExchangePathName(m.path);
  return absl::StrCat("auto>", ExchangePathName(m.chosen));
}

// Of paths that were run.
MoeValue OfRun(MoeValue value) {
  return [value = std::move(value)](const MoeRow& r) { return r.result.unavailable.empty() ? value(r) : Cell(); };
}

// Per second of a median time in microseconds; empty where nothing was done.
Cell PerSecond(double amount, const Summary& us) { return amount > 0 ? Cell(amount / (us.median * 1e-6)) : Cell(); }

Cell OfBound(const MoeRow& r) {
  if (r.result.flops == 0) return {};
  const MachineBounds& bounds = r.report.bounds;
  const double reading = static_cast<double>(r.result.weight_bytes) / bounds.read_bytes_per_second;
  const double computing = bounds.flops_per_second > 0 ? r.result.flops / bounds.flops_per_second : 0;
  return std::max(reading, computing) / (r.result.experts.median * 1e-6);
}

void AddMoeAxes(std::vector<MoeColumn>& columns) {
  const auto add = [&](const char* key, const char* heading, MoeValue value) {
    columns.push_back({.key = key, .value = std::move(value), .table = Table::kGroup, .heading = heading});
  };
  columns.push_back({.key = "/tokens",
                     .value = [](const MoeRow& r) -> Cell { return r.result.shape.max_tokens; },
                     .table = Table::kEvery,
                     .heading = "tokens",
                     .width = 7});
  add("/hidden", "hidden", [](const MoeRow& r) -> Cell { return r.result.shape.hidden; });
  add("/intermediate", "intermediate", [](const MoeRow& r) -> Cell { return r.result.shape.intermediate; });
  add("/experts", "experts", [](const MoeRow& r) -> Cell { return int64_t{r.result.shape.num_experts}; });
  add("/top_k", "top-k", [](const MoeRow& r) -> Cell { return int64_t{r.result.top_k}; });
  add("/weights", "weights", [](const MoeRow& r) -> Cell { return std::string(WeightsName(r.result.weight_dtype)); });
  columns.push_back(
      {.key = "/path", .value = [](const MoeRow& r) -> Cell { return std::string(ExchangePathName(r.result.path)); }});
  columns.push_back({.key = "/unavailable", .value = [](const MoeRow& r) -> Cell {
                       return r.result.unavailable.empty() ? Cell() : Cell(r.result.unavailable);
                     }});
  columns.push_back({.key = "/chosen_path", .value = OfRun([](const MoeRow& r) -> Cell {
                                              return std::string(ExchangePathName(r.result.chosen));
                                            })});
  // A run whose results are wrong ends with an error.
  columns.push_back({.key = "/verified", .value = OfRun([](const MoeRow&) -> Cell { return true; })});
}

void AddMoeTimes(std::vector<MoeColumn>& columns) {
  struct Phase {
    const char* name;
    Summary MoeResult::*summary;
    int width;
  };
  constexpr Phase kMoePhases[] = {{"route", &MoeResult::route, 9},        {"plan", &MoeResult::plan, 9},
                                  {"dispatch", &MoeResult::dispatch, 10}, {"experts", &MoeResult::experts, 11},
                                  {"combine", &MoeResult::combine, 10},   {"layer", &MoeResult::layer, 11}};
  for (const Phase& phase : kMoePhases) {
    for (const auto& [name, figure] : kSummaryFigures) {
      MoeColumn column = {.key = absl::StrCat("/phases/", phase.name, "/", name),
                          .value = OfRun([summary = phase.summary, figure = figure](const MoeRow& r) -> Cell {
                            return r.result.*summary.*figure;
                          })};
      if (figure == &Summary::median) {
        column.table = Table::kFirst;
        column.group = "median", column.heading = phase.name, column.unit = "us";
        column.width = phase.width, column.decimals = 1;
      }
      columns.push_back(std::move(column));
    }
  }
}

void AddMoeRates(std::vector<MoeColumn>& columns) {
  const auto add = [&](MoeColumn column, MoeValue value) {
    column.value = OfRun(std::move(value));
    column.table = Table::kFirst;
    columns.push_back(std::move(column));
  };
  add({.key = "/tokens_per_second", .heading = "tokens", .unit = "1/s", .width = 11}, [](const MoeRow& r) {
    return PerSecond(static_cast<double>(r.result.shape.max_tokens * r.report.num_ranks), r.result.layer);
  });
  add({.key = "/expert_gflops",
       .group = "experts",
       .heading = "compute",
       .unit = "GFLOP/s",
       .width = 10,
       .decimals = 1},
      [](const MoeRow& r) { return PerSecond(r.result.flops * 1e-9, r.result.experts); });
  add({.key = "/weight_gbps", .group = "experts", .heading = "weights", .unit = "GB/s", .width = 8, .decimals = 2},
      [](const MoeRow& r) { return PerSecond(static_cast<double>(r.result.weight_bytes) * 1e-9, r.result.experts); });
  add({.key = "/of_bound", .group = "experts", .heading = "bound", .unit = "%", .width = 6, .scale = 100}, OfBound);
}

const std::vector<MoeColumn>& MoeColumns() {
  static const std::vector<MoeColumn>* const columns = [] {
    auto* all = new std::vector<MoeColumn>();
    AddMoeAxes(*all);
    all->push_back({.key = "/label",
                    .value = [](const MoeRow& r) -> Cell { return PathLabel(r.result); },
                    .table = Table::kEvery,
                    .heading = "path",
                    .width = -16});
    AddMoeTimes(*all);
    AddMoeRates(*all);
    return all;
  }();
  return *columns;
}

}  // namespace

std::string MoeTable(const MoeReport& r) {
  const double gbps = r.bounds.read_bytes_per_second * 1e-9, gflops = r.bounds.flops_per_second * 1e-9;
  std::string out = absl::StrCat(
      Wrapped(r.machine),
      Wrapped(absl::StrFormat("%s, rank 0 on %s, %d threads each, router %s; times are of the slowest rank, results "
                              "verified",
                              r.topology, r.device, r.num_threads, BenchRouterName(r.router))),
      Wrapped(absl::StrFormat("two-core ratio %.2f before, %.2f after; %s", r.core_ratio_before, r.core_ratio_after,
                              gflops > 0 ? absl::StrFormat("all ranks together read %.1f GB/s, %.0f GFLOP/s of f32 "
                                                           "multiply-adds",
                                                           gbps, gflops)
                                         : absl::StrFormat("all GPUs together copy in their memory, read and written, "
                                                           "%.1f GB/s",
                                                           gbps))));
  const std::vector<const MoeColumn*> columns = ColumnsOf(MoeColumns(), Table::kFirst);
  std::string title;
  for (const MoeResult& m : r.results) {
    const MoeRow row{r, m};
    const std::string own = GroupTitle(MoeColumns(), row);
    if (own != title) absl::StrAppend(&out, "\n", Wrapped(own), "\n", Header(columns));
    title = own;
    absl::StrAppend(&out, RowLine(columns, row, m.unavailable));
  }
  return out;
}

std::string MoeJson(const MoeReport& r) {
  nlohmann::ordered_json json = {{"benchmark", "moe"},
                                 {"machine", MachineJson(r)},
                                 {"router", BenchRouterName(r.router)},
                                 {"results", nlohmann::ordered_json::array()}};
  json["machine"]["read_gbps"] = r.bounds.read_bytes_per_second * 1e-9;
  if (r.bounds.flops_per_second > 0) json["machine"]["gflops"] = r.bounds.flops_per_second * 1e-9;  // 0: not measured
  for (const MoeResult& m : r.results) json["results"].push_back(FiguresJson(MoeColumns(), MoeRow{r, m}));
  return FormatJson(json) + "\n";
}

}  // namespace tokenferry

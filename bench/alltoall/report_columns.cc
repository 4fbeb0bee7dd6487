#include "bench/alltoall/report_columns.h"

#include <cmath>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"

namespace tokenferry {
namespace {

using Value = std::function<Cell(const ReportRow&)>;

// Of paths that were run; baselines have no such figure.
Value OfPath(std::function<Cell(const ReportRow&)> value) {
  return [value = std::move(value)](const ReportRow& r) -> Cell {
    return r.baseline == nullptr && r.path.unavailable.empty() ? value(r) : Cell();
  };
}

Cell Finite(double v) { return std::isfinite(v) ? Cell(v) : Cell(); }

// 10^9 bytes per second; empty where nothing was moved.
Cell Rate(double num_bytes, double median_us) {
  return num_bytes > 0 && median_us > 0 ? Cell(Gbps(num_bytes, median_us * 1e-6)) : Cell();
}

Cell Bus(const Cell& algbw, int num_ranks) {
  const double* const rate = std::get_if<double>(&algbw);
  return rate != nullptr && num_ranks > 1 ? Cell(BusBandwidth(*rate, num_ranks)) : Cell();
}

int64_t DispatchSize(const ReportRow& r) { return r.point.skew.busiest_rank_rows * r.point.row_bytes(); }
int64_t CombineSize(const ReportRow& r) { return r.point.skew.busiest_rank_selections * r.point.output_bytes(); }

struct Phase {
  const char* key;
  Summary PhaseSummaries::*summary;
};
constexpr Phase kPhases[] = {{"/phases/plan", &PhaseSummaries::plan},
                             {"/phases/dispatch", &PhaseSummaries::dispatch},
                             {"/phases/expert_read", &PhaseSummaries::expert_read},
                             {"/phases/combine", &PhaseSummaries::combine},
                             {"/phases/round_trip", &PhaseSummaries::round_trip},
                             {"/local_read", &PhaseSummaries::local_read}};

// A baseline's median time for what the phase does, in microseconds.
double BaselineMicros(const BaselineResult& b, Summary PhaseSummaries::*phase) {
  const BaselineSeconds& s = b.median;
  if (phase == &PhaseSummaries::plan) return s.plan * 1e6;
  if (phase == &PhaseSummaries::dispatch) return (s.pack + s.forward + s.unpack) * 1e6;
  if (phase == &PhaseSummaries::expert_read) return s.read * 1e6;
  if (phase == &PhaseSummaries::combine) return (s.reduce + s.back + s.sum) * 1e6;
  return b.round_trip.median;
}

Cell PhaseValue(const ReportRow& r, Summary PhaseSummaries::*phase, double Summary::*figure) {
  if (r.baseline == nullptr) return r.path.unavailable.empty() ? Cell(r.path.us.*phase.*figure) : Cell();
  if (!r.baseline->unavailable.empty() || phase == &PhaseSummaries::local_read) return {};
  if (phase == &PhaseSummaries::round_trip) return r.baseline->round_trip.*figure;
  return figure == &Summary::median ? Cell(BaselineMicros(*r.baseline, phase)) : Cell();
}

bool IsWhole(const BaselineResult& b) { return b.unavailable.empty() && IsWhole(b.kind); }

void AddAxes(std::vector<Column>& columns) {
  const auto add = [&](const char* key, Value value, const char* heading = "") {
    columns.push_back({.key = key, .value = std::move(value), .table = Table::kGroup, .heading = heading});
  };
  columns.push_back({.key = "/tokens",
                     .value = [](const ReportRow& r) -> Cell { return r.point.point.tokens; },
                     .table = Table::kEvery,
                     .heading = "tokens",
                     .width = 7});
  add(
      "/hidden", [](const ReportRow& r) -> Cell { return r.point.point.hidden; }, "hidden");
  add(
      "/experts", [](const ReportRow& r) -> Cell { return int64_t{r.point.point.num_experts}; }, "experts");
  add(
      "/top_k", [](const ReportRow& r) -> Cell { return int64_t{r.point.point.top_k}; }, "top-k");
  add(
      "/dtype", [](const ReportRow& r) -> Cell { return DTypeFlag(r.point.point.dtype); }, "dtype");
  add(
      "/combine_dtype", [](const ReportRow& r) -> Cell { return DTypeFlag(r.point.point.combine_dtype); },
      "combine-dtype");
  add(
      "/placement", [](const ReportRow& r) -> Cell { return r.point.point.placement; }, "placement");
  add(
      "/traffic", [](const ReportRow& r) -> Cell { return r.point.point.traffic.text; }, "traffic");
  columns.push_back({.key = "/size_bytes",
                     .value = [](const ReportRow& r) -> Cell { return DispatchSize(r); },
                     .table = Table::kEvery,
                     .heading = "size",
                     .unit = "B",
                     .width = 11});
  columns.push_back({.key = "/path", .value = [](const ReportRow& r) -> Cell {
                       return std::string(r.baseline != nullptr ? BaselineName(r.baseline->kind)
                                                                : ExchangePathName(r.path.path));
                     }});
  const auto hidden = [&](const char* key, Value value) { columns.push_back({.key = key, .value = std::move(value)}); };
  hidden("/reduction", [](const ReportRow& r) -> Cell {
    return std::string(r.path.reduction == Reduction::kNode ? "node" : "exact");
  });
  hidden("/ranks", [](const ReportRow& r) -> Cell { return int64_t{r.report.num_ranks}; });
  hidden("/warmup", [](const ReportRow& r) -> Cell { return int64_t{r.report.warmup}; });
  hidden("/iters", [](const ReportRow& r) -> Cell { return int64_t{r.report.iters}; });
  hidden("/unavailable", [](const ReportRow& r) -> Cell {
    const std::string& why = r.baseline != nullptr ? r.baseline->unavailable : r.path.unavailable;
    return why.empty() ? Cell() : Cell(why);
  });
  hidden("/chosen_path",
         OfPath([](const ReportRow& r) -> Cell { return std::string(ExchangePathName(r.path.chosen)); }));
  columns.push_back({.key = "/label", .value = RowLabel, .table = Table::kEvery, .heading = "path", .width = -20});
}

void AddTimes(std::vector<Column>& columns) {
  for (const Phase& phase : kPhases) {
    for (const auto& [name, figure] : kSummaryFigures) {
      columns.push_back({.key = absl::StrCat(phase.key, "/", name),
                         .value = [summary = phase.summary, figure = figure](const ReportRow& r) {
                           return PhaseValue(r, summary, figure);
                         }});
    }
  }
  columns.push_back({.key = "/overhead_us", .value = [](const ReportRow& r) -> Cell {
                       if (r.baseline != nullptr && !IsWhole(*r.baseline)) return {};
                       if (!r.path.unavailable.empty()) return {};
                       return r.baseline != nullptr ? r.baseline->round_trip.median - r.path.us.local_read.median
                                                    : r.path.us.overhead();
                     }});
  columns.push_back({.key = "/verified", .value = OfPath([](const ReportRow&) -> Cell { return true; })});
  // A run with a wrong result ends with an error, so every result that is reported has none.
  columns.push_back({.key = "/wrong", .value = [](const ReportRow& r) -> Cell {
                       const bool checked = r.baseline != nullptr ? IsWhole(*r.baseline) : r.path.unavailable.empty();
                       return checked ? Cell(int64_t{0}) : Cell();
                     }});
}

void AddBytes(std::vector<Column>& columns) {
  const std::pair<const char*, int64_t RowBases::*> bases[] = {{"selection", &RowBases::selection},
                                                               {"rank", &RowBases::rank},
                                                               {"node", &RowBases::node},
                                                               {"wire", &RowBases::wire}};
  for (const bool dispatch : {true, false}) {
    const char* const phase = dispatch ? "dispatch" : "combine";
    const auto bytes = [dispatch](const ReportRow& r, int64_t RowBases::*basis) {
      return r.point.rows.*basis * (dispatch ? r.point.row_bytes() : r.point.output_bytes());
    };
    const auto us = [dispatch](const ReportRow& r) {
      return dispatch ? r.path.us.dispatch.median : r.path.us.combine.median;
    };
    for (const auto& [name, basis] : bases) {
      columns.push_back(
          {.key = absl::StrCat("/bytes/", phase, "/", name),
           .value = OfPath([bytes, basis = basis](const ReportRow& r) -> Cell { return bytes(r, basis); })});
      columns.push_back({.key = absl::StrCat("/gbps/", phase, "/", name),
                         .value = OfPath([bytes, us, basis = basis](const ReportRow& r) {
                           return Rate(static_cast<double>(bytes(r, basis)) / r.report.num_ranks, us(r));
                         })});
    }
    const auto algbw = [dispatch, us](const ReportRow& r) {
      return Rate(static_cast<double>(dispatch ? DispatchSize(r) : CombineSize(r)), us(r));
    };
    columns.push_back({.key = absl::StrCat("/algbw_gbps/", phase), .value = OfPath(algbw)});
    columns.push_back({.key = absl::StrCat("/busbw_gbps/", phase),
                       .value = OfPath([algbw](const ReportRow& r) { return Bus(algbw(r), r.report.num_ranks); })});
  }
  columns.push_back(
      {.key = "/bytes/least", .value = OfPath([](const ReportRow& r) -> Cell { return r.point.least_bytes(); })});
}

void AddRatios(std::vector<Column>& columns) {
  const auto add = [&](const char* key, std::function<Cell(const ReportRow&)> value) {
    columns.push_back({.key = key, .value = OfPath(std::move(value))});
  };
  add("/memory_read_gbps", [](const ReportRow& r) { return Finite(r.path.read_bytes_per_second * 1e-9); });
  add("/of_memory_bound", [](const ReportRow& r) {
    if (r.point.least_bytes() == 0) return Cell();
    return Finite(static_cast<double>(r.point.least_bytes()) / r.path.read_bytes_per_second /
                  (r.path.us.round_trip.median * 1e-6));
  });
  add("/plan_share", [](const ReportRow& r) { return Finite(r.path.us.plan.median / r.path.us.round_trip.median); });
  add("/mpi_row_per_rank_over_this/round_trip", [](const ReportRow& r) {
    const BaselineResult* const mpi = PerRankBaseline(r.path);
    return mpi != nullptr ? Finite(RoundTripOver(*mpi, r.path)) : Cell();
  });
  add("/mpi_row_per_rank_over_this/overhead", [](const ReportRow& r) {
    const BaselineResult* const mpi = PerRankBaseline(r.path);
    return mpi != nullptr ? Finite(OverheadOver(*mpi, r.path)) : Cell();
  });
  add("/padding_waste", [](const ReportRow& r) -> Cell { return r.point.skew.padding_waste; });
  add("/imbalance/rank", [](const ReportRow& r) -> Cell { return r.point.skew.rank_imbalance; });
  add("/imbalance/expert", [](const ReportRow& r) -> Cell { return r.point.skew.expert_imbalance; });
  add("/imbalance/pair", [](const ReportRow& r) -> Cell { return r.point.skew.pair_imbalance; });
  add("/missing_selections", [](const ReportRow& r) -> Cell { return r.point.num_missing; });
}

// Which of the figures are printed, and how. In this order, at most 120 columns each.
struct Printed {
  const char* key;
  Table table;
  const char *group, *heading, *unit;
  int width, decimals;
  double scale = 1;
};
constexpr Printed kPrinted[] = {
    {"/phases/plan/median_us", Table::kFirst, "median", "plan", "us", 9, 1},
    {"/phases/dispatch/median_us", Table::kFirst, "median", "dispatch", "us", 10, 1},
    {"/phases/expert_read/median_us", Table::kFirst, "median", "read", "us", 10, 1},
    {"/phases/combine/median_us", Table::kFirst, "median", "combine", "us", 10, 1},
    {"/phases/round_trip/median_us", Table::kFirst, "round trip", "median", "us", 11, 1},
    {"/phases/round_trip/p95_us", Table::kFirst, "round trip", "p95", "us", 11, 1},
    {"/overhead_us", Table::kFirst, "round trip", "overhead", "us", 11, 1},
    {"/wrong", Table::kFirst, "", "#wrong", "", 7, 0},
    {"/algbw_gbps/dispatch", Table::kSecond, "dispatch", "algbw", "GB/s", 8, 2},
    {"/busbw_gbps/dispatch", Table::kSecond, "dispatch", "busbw", "GB/s", 8, 2},
    {"/gbps/dispatch/rank", Table::kSecond, "dispatch", "DeepEP", "GB/s", 8, 2},
    {"/algbw_gbps/combine", Table::kSecond, "combine", "algbw", "GB/s", 8, 2},
    {"/busbw_gbps/combine", Table::kSecond, "combine", "busbw", "GB/s", 8, 2},
    {"/gbps/combine/rank", Table::kSecond, "combine", "DeepEP", "GB/s", 8, 2},
    {"/memory_read_gbps", Table::kSecond, "", "memory", "GB/s", 8, 2},
    {"/of_memory_bound", Table::kSecond, "", "bound", "%", 6, 0, 100},
    {"/plan_share", Table::kSecond, "", "plan", "%", 6, 1, 100},
    {"/mpi_row_per_rank_over_this/round_trip", Table::kSecond, "MPI", "trip", "x", 6, 1},
    {"/mpi_row_per_rank_over_this/overhead", Table::kSecond, "MPI", "over", "x", 6, 1},
};

std::vector<Column> MakeColumns() {
  std::vector<Column> columns;
  AddAxes(columns);
  AddTimes(columns);
  AddBytes(columns);
  AddRatios(columns);
  for (const Printed& p : kPrinted) {
    for (Column& c : columns) {
      if (c.key != p.key) continue;
      c.table = p.table, c.group = p.group, c.heading = p.heading, c.unit = p.unit;
      c.width = p.width, c.decimals = p.decimals, c.scale = p.scale;
    }
  }
  return columns;
}

}  // namespace

const std::vector<Column>& ReportColumns() {
  static const std::vector<Column>* const columns = new std::vector<Column>(MakeColumns());
  return *columns;
}

std::string RowLabel(const ReportRow& row) {
  if (row.baseline != nullptr) return BaselineName(row.baseline->kind);
  const char* const node = row.path.reduction == Reduction::kNode ? " node" : "";
  if (row.path.path != ExchangePath::kAuto) return absl::StrCat(ExchangePathName(row.path.path), node);
  return absl::StrCat("auto>", ExchangePathName(row.path.chosen), node);
}

std::string DTypeFlag(DType dtype) {
  if (dtype == DType::kF8E4M3) return "fp8";
  if (dtype == DType::kI8) return "int8";
  return absl::AsciiStrToLower(DTypeName(dtype));
}

const BaselineResult* PerRankBaseline(const PathResult& path) {
  const auto& b = path.beside;
  return b && b->kind == BaselineKind::kPerRank && b->unavailable.empty() ? &*b : nullptr;
}

double RoundTripOver(const BaselineResult& b, const PathResult& path) {
  return b.round_trip.median / path.us.round_trip.median;
}

double OverheadOver(const BaselineResult& b, const PathResult& path) {
  return (b.round_trip.median - path.us.local_read.median) / path.us.overhead();
}

}  // namespace tokenferry

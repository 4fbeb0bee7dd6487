#include "bench/alltoall/alltoall_report.h"

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>

#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "bench/alltoall/published.h"
#include "bench/alltoall/report_columns.h"
#include "bench/measure/machine_json.h"
#include "bench/measure/svg_plot.h"
#include "core/io/json_writer.h"

namespace tokenferry {
namespace {

using Json = nlohmann::ordered_json;

// ---- JSON

Json ToJson(const Summary& s) {
  Json json;
  for (const auto& [name, figure] : kSummaryFigures) json[name] = ToNineDigits(s.*figure);
  return json;
}

Json BaselineJson(const BaselineResult& b, const PathResult& path) {
  if (!b.unavailable.empty()) return {{"unavailable", b.unavailable}};
  Json json = {{"round_trip", ToJson(b.round_trip)}};
  const std::pair<const char*, double> steps[] = {
      {"plan", b.median.plan}, {"pack", b.median.pack},     {"forward", b.median.forward}, {"unpack", b.median.unpack},
      {"read", b.median.read}, {"reduce", b.median.reduce}, {"back", b.median.back},       {"sum", b.median.sum}};
  for (const auto& [name, seconds] : steps) json["median_us"][name] = ToNineDigits(seconds * 1e6);
  if (!IsWhole(b.kind)) return json;
  json["overhead_us"] = b.round_trip.median - path.us.local_read.median;
  json["round_trip_over_this"] = RoundTripOver(b, path);
  json["overhead_over_this"] = OverheadOver(b, path);
  return json;
}

Json PerRankJson(const PathResult& path) {
  Json json;
  for (const auto& [name, phase] : RankPhases()) {
    Json figures = {{"min_us", Json::array()}, {"avg_us", Json::array()}, {"max_us", Json::array()}};
    for (const RankPhaseTimes& rank : path.per_rank_us) {
      figures["min_us"].push_back((rank.*phase).min);
      figures["avg_us"].push_back((rank.*phase).avg);
      figures["max_us"].push_back((rank.*phase).max);
    }
    json[name] = std::move(figures);
  }
  return json;
}

Json ResultJson(const ReportRow& row) {
  Json json = FiguresJson(ReportColumns(), row);
  const PathResult& path = row.path;
  if (!path.unavailable.empty()) return json;
  json["per_rank"] = PerRankJson(path);
  if (path.beside) json["baselines"][BaselineName(path.beside->kind)] = BaselineJson(*path.beside, path);
  for (const BaselineResult& b : row.point.baselines) json["baselines"][BaselineName(b.kind)] = BaselineJson(b, path);
  return json;
}

// ---- CSV

std::string CsvField(const Cell& cell) {
  if (std::holds_alternative<bool>(cell)) return std::get<bool>(cell) ? "true" : "false";
  if (std::holds_alternative<int64_t>(cell)) return absl::StrCat(std::get<int64_t>(cell));
  if (std::holds_alternative<double>(cell)) return absl::StrFormat("%.9g", std::get<double>(cell));
  if (!std::holds_alternative<std::string>(cell)) return "";
  const std::string& text = std::get<std::string>(cell);
  if (text.find_first_of(",\"\r\n") == std::string::npos) return text;
  return absl::StrCat("\"", absl::StrReplaceAll(text, {{"\"", "\"\""}}), "\"");
}

// ---- tables

const std::string& WhyNot(const ReportRow& row) {
  return row.baseline != nullptr ? row.baseline->unavailable : row.path.unavailable;
}

// Every path, with the baseline that was timed in turns with it, and then the point's other baselines.
std::vector<ReportRow> RowsOf(const AllToAllReport& r, const PointResult& p) {
  std::vector<ReportRow> rows;
  for (const PathResult& path : p.paths) {
    rows.push_back({r, p, path});
    if (path.beside) rows.push_back({r, p, path, &*path.beside});
  }
  for (const BaselineResult& b : p.baselines) rows.push_back({r, p, p.paths.front(), &b});
  return rows;
}

// Minimum, average and maximum over the iterations, of each rank.
std::string PerRankTable(const std::vector<const PointResult*>& points, const AllToAllReport& r) {
  std::string table = absl::StrFormat("\n%7s %-20s%5s", "tokens", " path", "rank");
  for (const auto& [name, phase] : RankPhases())
    absl::StrAppend(&table, Padded(absl::StrCat(name, " min/avg/max"), 29));
  absl::StrAppend(&table, "\n", std::string(33, ' '));
  for (size_t i = 0; i < RankPhases().size(); ++i) absl::StrAppend(&table, Padded("(us)", 29));
  absl::StrAppend(&table, "\n");
  for (const PointResult* p : points) {
    for (const PathResult& path : p->paths) {
      for (size_t rank = 0; rank < path.per_rank_us.size(); ++rank) {
        absl::StrAppendFormat(&table, "%7d  %-19s%5d", p->point.tokens, RowLabel({r, *p, path}), rank);
        for (const auto& [name, phase] : RankPhases()) {
          const RankTime& t = path.per_rank_us[rank].*phase;
          absl::StrAppend(&table, Padded(absl::StrFormat("%.1f/%.1f/%.1f", t.min, t.avg, t.max), 29));
        }
        absl::StrAppend(&table, "\n");
      }
    }
  }
  return table;
}

// What was published for the setting, and what was measured here in the same terms.
struct Beside {
  std::string what;
  PublishedFigure figure;
};
std::vector<Beside> BesidePublished(const AllToAllReport& r, const PublishedSetting& setting) {
  std::vector<Beside> lines;
  for (const PointResult& p : r.points) {
    for (const PathResult& path : p.paths) {
      if (!path.unavailable.empty()) continue;
      const auto rate = [&](int64_t rows, int64_t row_bytes, double us) {
        return us > 0 ? Gbps(static_cast<double>(rows * row_bytes) / r.num_ranks, us * 1e-6) : 0;
      };
      const int64_t rows = p.rows.*setting.basis;
      const double dispatch_us = path.us.dispatch.median, combine_us = path.us.combine.median;
      lines.push_back({absl::StrCat("here, ", p.point.tokens, " tokens, ", RowLabel({r, p, path})),
                       {r.num_ranks, dispatch_us, rate(rows, p.row_bytes(), dispatch_us), combine_us,
                        rate(rows, p.output_bytes(), combine_us), ""}});
    }
  }
  for (const PublishedFigure& figure : setting.figures)
    lines.push_back({absl::StrCat("DeepEP, ", figure.link), figure});
  return lines;
}

std::string PublishedTable(const AllToAllReport& r, const PublishedSetting& setting) {
  std::string table =
      absl::StrCat("\n", Wrapped(absl::StrCat(setting.source, "; bytes of rows, one per ", setting.unit)));
  absl::StrAppendFormat(&table, "%50s%21s%21s\n%50s%12s%9s%12s%9s\n", "ranks", GroupHeading("dispatch", 21),
                        GroupHeading("combine", 21), "", "(us)", "(GB/s)", "(us)", "(GB/s)");
  for (const auto& [what, f] : BesidePublished(r, setting)) {
    const auto micros = [](double us) { return us > 0 ? absl::StrFormat("%.1f", us) : std::string("-"); };
    absl::StrAppendFormat(&table, "%-44s%6d%12s%9.2f%12s%9.2f\n", what, f.num_ranks, micros(f.dispatch_us),
                          f.dispatch_gbps, micros(f.combine_us), f.combine_gbps);
  }
  return table;
}

Json PublishedJson(const PublishedSetting& setting) {
  Json json = {
      {"source", setting.source}, {"rows", absl::StrCat("one per ", setting.unit)}, {"figures", Json::array()}};
  for (const PublishedFigure& f : setting.figures) {
    Json figure = {{"ranks", f.num_ranks}, {"link", f.link}};
    if (f.dispatch_us > 0) figure["dispatch_us"] = f.dispatch_us, figure["combine_us"] = f.combine_us;
    figure["dispatch_gbps"] = f.dispatch_gbps;
    figure["combine_gbps"] = f.combine_gbps;
    json["figures"].push_back(std::move(figure));
  }
  return json;
}

// What the ranks compute on: processors, or GPUs of which there is one each.
std::string Computing(const AllToAllReport& r) {
  if (r.device_kind == DeviceKind::kCuda) return absl::StrCat("rank 0 on ", r.device);
  return absl::StrFormat("%d threads each, %s", r.num_threads, r.instruction_set);
}

}  // namespace

std::string ReportTable(const AllToAllReport& r, PerRankTimes per_rank) {
  std::string out = absl::StrCat(
      Wrapped(r.machine), Wrapped(absl::StrCat(r.topology, ", ", Computing(r))),
      Wrapped(absl::StrFormat("%d iterations after %d; times are of the slowest rank; two-core ratio %.2f before, %.2f "
                              "after",
                              r.iters, r.warmup, r.core_ratio_before, r.core_ratio_after)));
  std::vector<std::pair<std::string, std::vector<const PointResult*>>> groups;
  for (const PointResult& p : r.points) {
    if (p.paths.empty()) continue;
    const std::string title = GroupTitle(ReportColumns(), ReportRow{r, p, p.paths.front()});
    const auto same = [&](const auto& group) { return group.first == title; };
    auto group = std::find_if(groups.begin(), groups.end(), same);
    if (group == groups.end()) group = groups.insert(groups.end(), {title, {}});
    group->second.push_back(&p);
  }
  for (const auto& [title, points] : groups) {
    absl::StrAppend(&out, "\n", Wrapped(title));
    for (const Table table : {Table::kFirst, Table::kSecond}) {
      const std::vector<const Column*> columns = ColumnsOf(ReportColumns(), table);
      absl::StrAppend(&out, "\n", Header(columns));
      for (const PointResult* p : points) {
        for (const ReportRow& row : RowsOf(r, *p)) {
          // A baseline, or what could not be run, has times at most.
          const bool has_rates = row.baseline == nullptr && row.path.unavailable.empty();
          if (table == Table::kFirst || has_rates) absl::StrAppend(&out, RowLine(columns, row, WhyNot(row)));
        }
      }
    }
    if (per_rank == PerRankTimes::kShow) absl::StrAppend(&out, PerRankTable(points, r));
  }
  if (const PublishedSetting* setting = FindPublished(r.preset)) absl::StrAppend(&out, PublishedTable(r, *setting));
  return out;
}

std::string ReportCsv(const AllToAllReport& r) {
  std::vector<std::string> names;
  for (const Column& c : ReportColumns()) names.push_back(absl::StrReplaceAll(c.key.substr(1), {{"/", "."}}));
  std::string csv = absl::StrJoin(names, ",") + "\n";
  for (const PointResult& p : r.points) {
    for (const ReportRow& row : RowsOf(r, p)) {
      std::vector<std::string> fields;
      for (const Column& c : ReportColumns()) fields.push_back(CsvField(c.value(row)));
      absl::StrAppend(&csv, absl::StrJoin(fields, ","), "\n");
    }
  }
  return csv;
}

std::string ReportJson(const AllToAllReport& r) {
  Json json = {{"benchmark", "alltoall"}, {"machine", MachineJson(r)}, {"results", Json::array()}};
  json["machine"]["transport"] = r.transport;
  for (const PointResult& p : r.points) {
    for (const PathResult& path : p.paths) json["results"].push_back(ResultJson({r, p, path}));
  }
  if (const PublishedSetting* setting = FindPublished(r.preset)) json["published"] = PublishedJson(*setting);
  return FormatJson(json) + "\n";
}

std::string ReportSvg(const AllToAllReport& r) {
  std::vector<PlotSeries> series;
  std::map<std::string, size_t> by_name;
  const auto add = [&](const PointResult& p, const std::string& what, double us) {
    const std::string name =
        absl::StrCat(what, ", ", absl::StrCat(DTypeFlag(p.point.dtype), "/", DTypeFlag(p.point.combine_dtype)), ", ",
                     p.point.traffic.text, p.point.placement == "linear" ? "" : ", ",
                     p.point.placement == "linear" ? "" : p.point.placement, ", ", p.point.top_k, "/",
                     p.point.num_experts, " x ", p.point.hidden);
    const auto [it, is_new] = by_name.emplace(name, series.size());
    if (is_new) series.push_back({name, {}});
    series[it->second].points.emplace_back(static_cast<double>(p.point.tokens), us);
  };
  for (const PointResult& p : r.points) {
    for (const PathResult& path : p.paths) {
      if (path.unavailable.empty()) add(p, RowLabel({r, p, path}), path.us.round_trip.median);
      if (const BaselineResult* mpi = PerRankBaseline(path); mpi != nullptr) {
        add(p, absl::StrCat(BaselineName(mpi->kind), " beside ", RowLabel({r, p, path})), mpi->round_trip.median);
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

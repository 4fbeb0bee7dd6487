// The figures of bench alltoall, each described once: where it stands in the JSON report and in the CSV file, and, for
// those that are printed, its place in the tables. bench/README.md defines every figure.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <variant>
#include <vector>

#include "bench/alltoall/alltoall_bench.h"

namespace tokenferry {

// A path at a point, or one of the baselines that were timed beside it.
struct ReportRow {
  const AllToAllReport& report;
  const PointResult& point;
  const PathResult& path;
  const BaselineResult* baseline = nullptr;  // null: the path itself
};

// Empty: the row has no such figure, or nothing was moved that it could be of.
using Cell = std::variant<std::monostate, bool, int64_t, double, std::string>;

enum class Table : uint8_t { kNone, kGroup, kTimes, kRates, kBoth };  // kGroup: in the line above a pair of tables

struct Column {
  std::string key;  // JSON pointer within a result, "/phases/plan/median_us"; CSV has dots: "phases.plan.median_us"
  std::function<Cell(const ReportRow&)> value;
  Table table = Table::kNone;
  std::string group, heading, unit;  // of the tables: above several columns, of the column, in parentheses below
  int width = 0;                     // with the space before it; negative: to the left
  int decimals = 0;
  double scale = 1;  // of what is printed: 100 where the unit is %
};

const std::vector<Column>& ReportColumns();

// "auto>peer", "two_level node", "mpi_row_per_rank".
std::string RowLabel(const ReportRow& row);
// The values of --dtype and --combine-dtype.
std::string DTypeFlag(DType dtype);

// mpi_row_per_rank, in turns with the path; null when it was not run.
const BaselineResult* PerRankBaseline(const PathResult& path);
// How many times the path's time a baseline takes; overhead is what comes on top of reading the rows locally.
double RoundTripOver(const BaselineResult& b, const PathResult& path);
double OverheadOver(const BaselineResult& b, const PathResult& path);

}  // namespace tokenferry

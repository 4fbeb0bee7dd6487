// The figures of bench alltoall, each described once: where it stands in the JSON report and in the CSV file, and, for
// those that are printed, its place in the tables. bench/README.md defines every figure.
#pragma once

#include <string>
#include <vector>

#include "bench/alltoall/alltoall_bench.h"
#include "core/io/report_figures.h"

namespace tokenferry {

// A path at a point, or one of the baselines that were timed beside it.
struct ReportRow {
  const AllToAllReport& report;
  const PointResult& point;
  const PathResult& path;
  const BaselineResult* baseline = nullptr;  // null: the path itself
};

using Column = FigureColumn<ReportRow>;
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

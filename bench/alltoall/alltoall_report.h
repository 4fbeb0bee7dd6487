// What bench alltoall prints and writes. bench/README.md defines every figure.
#pragma once

#include <cstdint>
#include <string>

#include "bench/alltoall/alltoall_bench.h"

namespace tokenferry {

enum class PerRankTimes : uint8_t { kHide, kShow };

// At most 120 columns, but for single words (file names) that are longer. "-": there is no such figure.
std::string ReportTable(const AllToAllReport& report, PerRankTimes per_rank = PerRankTimes::kHide);
// A line for the names of the columns, and one for each path and baseline at each point. RFC 4180, with line feeds.
std::string ReportCsv(const AllToAllReport& report);
std::string ReportJson(const AllToAllReport& report);
// Round trip over tokens per rank, a line per path and other axis, and the baselines.
std::string ReportSvg(const AllToAllReport& report);

}  // namespace tokenferry

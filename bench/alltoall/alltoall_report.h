// What bench alltoall prints and writes. bench/README.md defines every figure.
#pragma once

#include <string>

#include "bench/alltoall/alltoall_bench.h"

namespace tokenferry {

std::string ReportTable(const AllToAllReport& report);
std::string ReportJson(const AllToAllReport& report);
// Round trip over tokens per rank, a line per path and other axis, and the baselines.
std::string ReportSvg(const AllToAllReport& report);

}  // namespace tokenferry

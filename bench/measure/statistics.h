// What a list of timings says.
#pragma once

#include <utility>
#include <vector>

#include "absl/types/span.h"
#include "comm/transport/transport.h"

namespace tokenferry {

// Of a sorted list v of n values: median is v[n/2] (the mean of the two middle ones when n is even), p95 is the
// smallest value that at least 95 % of all are not above (nearest rank: v[ceil(0.95 n) - 1]).
struct Summary {
  double min = 0, median = 0, p95 = 0, max = 0;
};
// As reports name them, of microseconds.
inline constexpr std::pair<const char*, double Summary::*> kSummaryFigures[] = {
    {"min_us", &Summary::min}, {"median_us", &Summary::median}, {"p95_us", &Summary::p95}, {"max_us", &Summary::max}};
// All 0 for an empty list.
Summary Summarize(std::vector<double> values);

// Collective: element i is the largest of all ranks' values[i]. Every rank passes as many.
absl::StatusOr<std::vector<double>> MaxOverRanks(Transport& transport, absl::Span<const double> values);

// Collective: every rank's numbers, by rank. Every rank passes as many.
absl::StatusOr<std::vector<std::vector<int64_t>>> GatherNumbers(Transport& transport, absl::Span<const int64_t> mine);

}  // namespace tokenferry

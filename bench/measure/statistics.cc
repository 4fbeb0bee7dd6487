#include "bench/measure/statistics.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "comm/transport/collectives.h"

namespace tokenferry {
namespace {

// [R][n]
template <class T>
absl::StatusOr<std::vector<std::vector<T>>> GatherValues(Transport& transport, absl::Span<const T> mine) {
  const absl::string_view bytes(reinterpret_cast<const char*>(mine.data()), mine.size() * sizeof(T));
  TF_ASSIGN_OR_RETURN(const std::vector<std::string> all, AllGather(transport, {.phase = "bench: figures"}, bytes));
  std::vector<std::vector<T>> values(all.size(), std::vector<T>(mine.size()));
  for (size_t r = 0; r < all.size(); ++r) {
    if (all[r].size() != bytes.size()) {
      return absl::DataLossError(absl::StrCat("bench: rank ", r, " has figures of ", all[r].size(), " bytes, rank ",
                                              transport.rank().value, " of ", bytes.size(),
                                              "; start all ranks with the same flags"));
    }
    if (!bytes.empty()) std::memcpy(values[r].data(), all[r].data(), bytes.size());
  }
  return values;
}

}  // namespace

Summary Summarize(std::vector<double> values) {
  if (values.empty()) return {};
  std::sort(values.begin(), values.end());
  const size_t n = values.size();
  const auto p95 = static_cast<size_t>(std::ceil(0.95 * static_cast<double>(n)));
  return {.min = values.front(),
          .median = n % 2 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2,
          .p95 = values[p95 - 1],
          .max = values.back()};
}

absl::StatusOr<std::vector<double>> MaxOverRanks(Transport& transport, absl::Span<const double> values) {
  TF_ASSIGN_OR_RETURN(const auto all, GatherValues<double>(transport, values));
  std::vector<double> largest = all[0];
  for (const std::vector<double>& theirs : all) {
    for (size_t i = 0; i < largest.size(); ++i) largest[i] = std::max(largest[i], theirs[i]);
  }
  return largest;
}

absl::StatusOr<std::vector<std::vector<int64_t>>> GatherNumbers(Transport& transport, absl::Span<const int64_t> mine) {
  return GatherValues<int64_t>(transport, mine);
}

}  // namespace tokenferry

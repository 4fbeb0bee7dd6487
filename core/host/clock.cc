#include "core/host/clock.h"

#include <time.h>

#include <algorithm>

namespace tokenferry {
namespace {

// `by` after `at_ns`, both at least 0; not beyond the largest number, which means never.
int64_t Later(int64_t at_ns, absl::Duration by) {
  constexpr int64_t kMost = std::numeric_limits<int64_t>::max();
  const int64_t by_ns = absl::ToInt64Nanoseconds(std::max(by, absl::ZeroDuration()));
  return by_ns > kMost - at_ns ? kMost : at_ns + by_ns;
}

}  // namespace

int64_t SteadyNanos() {
  timespec now = {};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
}

Deadline Deadline::After(absl::Duration timeout) { return Deadline(Later(SteadyNanos(), timeout)); }

absl::Duration Deadline::Remaining() const {
  if (at_ns_ == kNever) return absl::InfiniteDuration();
  return absl::Nanoseconds(std::max<int64_t>(at_ns_ - SteadyNanos(), 0));
}

void Deadline::Extend(absl::Duration by) { at_ns_ = Later(at_ns_, by); }

}  // namespace tokenferry

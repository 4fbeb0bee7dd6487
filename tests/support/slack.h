// How much longer than on an idle machine something may take: `deadline` of slack.py for tests in C++.
#pragma once

#include <algorithm>
#include <cstdlib>
#include <fstream>

#include "absl/time/time.h"
#include "core/host/affinity.h"

namespace tokenferry {

// `idle`, which suffices on an idle machine, for this one as it is, in whole seconds: as much longer as there are pairs
// of processes, now or on average of the last minute, that want to run on one processor. Under sanitizers TF_TIME_SCALE
// times that.
inline absl::Duration Slack(absl::Duration idle) {
  double minute = 0, of_five = 0, of_fifteen = 0, now = 0;
  std::ifstream("/proc/loadavg") >> minute >> of_five >> of_fifteen >> now;
  const char* scale = std::getenv("TF_TIME_SCALE");
  const double pairs_per_cpu = std::max(minute, now) / 2 / NumProcessCpus();
  return absl::Ceil(idle * ((scale == nullptr ? 1 : std::atof(scale)) * std::max(1.0, pairs_per_cpu)),
                    absl::Seconds(1));
}

}  // namespace tokenferry

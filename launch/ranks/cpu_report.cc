#include "launch/ranks/cpu_report.h"

#include <algorithm>
#include <set>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace tokenferry {
namespace {

std::string Range(int least, int most, const char* one, const char* many) {
  if (least == most) return absl::StrCat(most, most == 1 ? one : many);
  return absl::StrCat(least, " to ", most, many);
}

const char* FlagAgainstBinding(const std::string& launcher) {
  if (absl::StrContains(launcher, "Open MPI")) return "--bind-to none";
  if (absl::StrContains(launcher, "srun")) return "--cpu-bind=none, or --cpus-per-task";
  if (absl::StrContains(launcher, "MPICH")) return "-bind-to none";
  return "its option against binding";
}

}  // namespace

std::string DescribeCpuShares(const std::vector<CpuShare>& share_per_rank) {
  if (share_per_rank.empty()) return "";
  CpuShare least = share_per_rank.front(), most = least;
  for (const CpuShare& share : share_per_rank) {
    least = {std::min(least.num_threads, share.num_threads), std::min(least.num_cpus, share.num_cpus)};
    most = {std::max(most.num_threads, share.num_threads), std::max(most.num_cpus, share.num_cpus)};
  }
  return absl::StrCat(Range(least.num_threads, most.num_threads, " thread", " threads"), " per rank, ",
                      Range(least.num_cpus, most.num_cpus, " CPU", " CPUs"), " allowed");
}

std::string WarnOfIdleCpus(const std::string& launcher, const std::vector<int>& host_cpus,
                           const std::vector<std::vector<int>>& cpus_per_local_rank, int num_threads) {
  std::set<int> used;
  bool satisfied = num_threads > 0;
  for (const std::vector<int>& cpus : cpus_per_local_rank) {
    used.insert(cpus.begin(), cpus.end());
    satisfied = satisfied && static_cast<size_t>(num_threads) <= cpus.size();
  }
  const auto num_idle = std::count_if(host_cpus.begin(), host_cpus.end(), [&](int cpu) { return !used.contains(cpu); });
  if (launcher.empty() || satisfied || num_idle * 2 < static_cast<int64_t>(host_cpus.size()) || num_idle == 0)
    return "";
  return absl::StrCat(num_idle, " of this host's ", host_cpus.size(), " CPUs are idle: ", launcher,
                      " has bound its ranks to the others; give it ", FlagAgainstBinding(launcher),
                      " (tokenferry pins its threads itself)");
}

}  // namespace tokenferry

// What the cgroups of this process leave it: CPU time and memory. Containers, Slurm and systemd set such limits;
// neither the CPUs that a process may run on nor /proc/meminfo show them.
#pragma once

#include <cstdint>
#include <limits>
#include <string>

namespace tokenferry {

struct CgroupLimits {
  static constexpr int64_t kNoLimit = std::numeric_limits<int64_t>::max();

  // CPUs' worth of time: 1.5 is one and a half CPUs' time in every period. Infinite without a limit.
  double num_cpus = std::numeric_limits<double>::infinity();
  // What may still be taken before the kernel kills somebody: the limit less what is in use, where pages of files that
  // can be dropped do not count as used. Not negative; kNoLimit without a limit.
  int64_t available_bytes = kNoLimit;
};

// Of cgroups v1 (cpu.cfs_quota_us, memory.limit_in_bytes) and v2 (cpu.max, memory.max), also side by side. A limit
// holds for all groups below it, so the smallest from this process's group up to the topmost visible one counts. What
// cannot be read sets no limit. `root` is put before every path; tests pass a folder with files of their own.
CgroupLimits ReadCgroupLimits(const std::string& root = "");

}  // namespace tokenferry

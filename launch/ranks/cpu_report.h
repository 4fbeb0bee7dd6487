// What the ranks were given to compute with, in words for the user.
#pragma once

#include <string>
#include <vector>

namespace tokenferry {

// Of one rank.
struct CpuShare {
  int num_threads = 1;
  int num_cpus = 1;  // that it may run on; it may share them with other ranks
};

// "1 thread per rank, 1 to 2 CPUs allowed"
std::string DescribeCpuShares(const std::vector<CpuShare>& share_per_rank);

// A warning when a launcher has bound the ranks of a host to half of its CPUs or less, naming the flag that helps;
// empty when there is nothing to say. Open MPI binds each rank to one core when there are one or two.
// `host_cpus`: the CPUs that the launcher itself may use. `num_threads`: --threads, 0 when it was not given: a rank
// that has as many CPUs as it was told to use misses nothing.
std::string WarnOfIdleCpus(const std::string& launcher, const std::vector<int>& host_cpus,
                           const std::vector<std::vector<int>>& cpus_per_local_rank, int num_threads);

}  // namespace tokenferry

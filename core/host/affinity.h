// Which CPUs the threads of a rank run on. The program pins itself: unpinned threads that spin may be packed on one CPU
// by the (guest) scheduler and then wait for each other in time slices of milliseconds.
#pragma once

#include <sys/types.h>

#include <limits>
#include <string>
#include <vector>

#include "absl/types/span.h"
#include "core/status.h"

namespace tokenferry {

// The CPUs (numbers of the operating system, increasing) that the calling thread may run on. Before anything is pinned
// that is what launcher and container gave to the process. Never empty.
std::vector<int> AllowedCpus();
// The same of process `pid`; empty when it cannot be asked (it has ended).
std::vector<int> AllowedCpusOf(pid_t pid);
// How many CPUs this process was given: AllowedCpus().size() when the program was loaded, before any thread was pinned.
int NumProcessCpus();

// The physical cores of this machine, neighbours (same cache, same NUMA node) side by side; each is the list of its
// CPUs. Cores that the container hides may be missing. From hwloc; never fails: without a topology, it is empty.
std::vector<std::vector<int>> MachineCores();

struct AffinityRequest {
  int local_rank = 0;
  // AllowedCpus() of every rank of this host, by local rank.
  std::vector<std::vector<int>> cpus_per_local_rank;
  int num_threads = 0;  // per rank, the same for all ranks of this host; 0: as many as there are cores for
  // CPUs' worth of time that a cgroup leaves to the ranks of this host together (core/host/cgroup.h).
  double num_cpus_of_quota = std::numeric_limits<double>::infinity();
};

enum class Binding : uint8_t {
  kPinned,        // cpus has one CPU per thread
  kSystemChooses  // cpus is empty: pinning would stack some threads and leave other CPUs idle
};

struct AffinityPlan {
  int num_threads = 1;  // of this rank
  Binding binding = Binding::kSystemChooses;
  std::vector<int> cpus;           // [num_threads] for ThreadPool, or empty; cpus[0] is for the rank's main thread
  bool bound_by_launcher = false;  // the ranks of this host were given different CPUs, or not all of the machine's
  bool oversubscribed = false;     // more threads than CPUs (or than the quota pays for): do not spin
  std::string ToString() const;    // for the log: "2 threads on CPUs 0,1"
};

// A pure function. The rules:
//  * A rank stays within its own set. Ranks with equal sets share it; `peers` below are the ranks of one such group.
//  * Automatic number of threads: cores of the set / peers, but no more than quota / ranks of this host, at least 1. A
//    rank that has used up its quota stands still for the rest of the period, with all its threads.
//  * Enough cores for all threads of the peers: each peer gets a run of neighbouring cores, one CPU of each.
//  * Enough CPUs only (hyperthreads): each peer gets a run of neighbouring CPUs and uses different cores first.
//  * More threads than CPUs: pinned in turn when that puts the same number of threads on every CPU, else not pinned.
//  * Sets that overlap without being equal (a launcher's mistake, or the user's wish): not pinned further;
//    oversubscribed when the threads of the ranks that overlap outnumber the CPUs of this rank's set.
// InvalidArgument for a local rank, set or number of threads that makes no sense.
absl::StatusOr<AffinityPlan> PlanAffinity(const std::vector<std::vector<int>>& machine_cores,
                                          const AffinityRequest& request);

// Restricts the calling thread to `cpus`; an empty list changes nothing.
absl::Status PinThisThread(absl::Span<const int> cpus);

}  // namespace tokenferry

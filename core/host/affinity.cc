#include "core/host/affinity.h"

#include <hwloc.h>
#include <sched.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <memory>
#include <set>

#include "absl/strings/str_join.h"

namespace tokenferry {
namespace {

constexpr int kMaxCpus = 1 << 16;

// A CPU set of any size (cpu_set_t ends at 1024).
class CpuSet {
 public:
  explicit CpuSet(int num_cpus) : set_(CPU_ALLOC(num_cpus), &Free), num_bytes_(CPU_ALLOC_SIZE(num_cpus)) {
    CPU_ZERO_S(num_bytes_, set_.get());
  }
  cpu_set_t* get() { return set_.get(); }
  size_t num_bytes() const { return num_bytes_; }
  bool Has(int cpu) const { return CPU_ISSET_S(cpu, num_bytes_, set_.get()); }
  void Add(int cpu) { CPU_SET_S(cpu, num_bytes_, set_.get()); }

 private:
  static void Free(cpu_set_t* set) { CPU_FREE(set); }
  std::unique_ptr<cpu_set_t, void (*)(cpu_set_t*)> set_;
  size_t num_bytes_;
};

// The CPUs of `set`, core by core; a CPU that no core lists is a core of its own.
std::vector<std::vector<int>> CoresWithin(const std::vector<std::vector<int>>& machine_cores, std::set<int> set) {
  std::vector<std::vector<int>> cores;
  for (const auto& core : machine_cores) {
    std::vector<int> cpus;
    for (int cpu : core) {
      if (set.erase(cpu) > 0) cpus.push_back(cpu);
    }
    if (!cpus.empty()) cores.push_back(std::move(cpus));
  }
  for (int cpu : set) cores.push_back({cpu});
  return cores;
}

// Item `peer` of `num_items` things cut in `num_peers` runs whose lengths differ by one at most.
struct Run {
  size_t begin, end;
};
Run CutRun(size_t num_items, size_t peer, size_t num_peers) {
  return {num_items * peer / num_peers, num_items * (peer + 1) / num_peers};
}

std::vector<int> PinToCores(const std::vector<std::vector<int>>& cores, size_t peer, size_t num_peers, size_t threads) {
  const Run run = CutRun(cores.size(), peer, num_peers);
  std::vector<int> cpus;
  for (size_t i = run.begin; i < run.end && cpus.size() < threads; ++i) cpus.push_back(cores[i][0]);
  return cpus;
}

std::vector<int> PinToCpus(const std::vector<std::vector<int>>& cores, size_t peer, size_t num_peers, size_t threads) {
  struct Place {
    size_t depth;  // how many CPUs of the same core the run has before this one
    int cpu;
  };
  std::vector<std::pair<size_t, int>> all;  // core, cpu
  for (size_t core = 0; core < cores.size(); ++core) {
    for (int cpu : cores[core]) all.emplace_back(core, cpu);
  }
  const Run run = CutRun(all.size(), peer, num_peers);
  std::vector<Place> places;
  for (size_t i = run.begin; i < run.end; ++i) {
    const bool same_core = i > run.begin && all[i].first == all[i - 1].first;
    places.push_back({same_core ? places.back().depth + 1 : 0, all[i].second});
  }
  std::stable_sort(places.begin(), places.end(), [](const Place& a, const Place& b) { return a.depth < b.depth; });
  std::vector<int> cpus;
  for (size_t i = 0; i < threads; ++i) cpus.push_back(places[i].cpu);
  return cpus;
}

absl::Status Validate(const AffinityRequest& request) {
  const auto& sets = request.cpus_per_local_rank;
  if (request.local_rank < 0 || static_cast<size_t>(request.local_rank) >= sets.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat("affinity: local rank ", request.local_rank, " of ", sets.size(), " ranks on this host"));
  }
  for (size_t r = 0; r < sets.size(); ++r) {
    if (sets[r].empty()) return absl::InvalidArgumentError(absl::StrCat("affinity: local rank ", r, " has no CPU"));
  }
  if (request.num_threads < 0 || request.num_threads > kMaxCpus) {
    return absl::InvalidArgumentError(
        absl::StrCat("affinity: ", request.num_threads, " threads per rank: give 0 (automatic) to ", kMaxCpus));
  }
  return absl::OkStatus();
}

// The ranks whose set is equal to this rank's, and those whose set shares a CPU with it; both include this rank.
struct Peers {
  size_t num_equal = 0, idx_among_equal = 0, num_overlapping = 0;
};
Peers FindPeers(const std::vector<std::set<int>>& sets, size_t local_rank) {
  Peers peers;
  const std::set<int>& own = sets[local_rank];
  for (size_t r = 0; r < sets.size(); ++r) {
    if (sets[r] == own) {
      if (r < local_rank) ++peers.idx_among_equal;
      ++peers.num_equal;
    }
    if (std::any_of(sets[r].begin(), sets[r].end(), [&](int cpu) { return own.contains(cpu); }))
      ++peers.num_overlapping;
  }
  return peers;
}

bool BoundByLauncher(const std::vector<std::vector<int>>& machine_cores, const std::vector<std::set<int>>& sets,
                     const std::set<int>& own) {
  for (const auto& core : machine_cores) {
    for (int cpu : core) {
      if (!own.contains(cpu)) return true;
    }
  }
  return std::any_of(sets.begin(), sets.end(), [&](const auto& set) { return set != own; });
}

}  // namespace

namespace {

// Taken when the program is loaded: later threads are pinned, and a thread's CPUs no longer tell the process's.
const int num_process_cpus = static_cast<int>(AllowedCpus().size());

}  // namespace

int NumProcessCpus() { return num_process_cpus; }

std::vector<int> AllowedCpus() {
  std::vector<int> cpus = AllowedCpusOf(0);
  return cpus.empty() ? std::vector<int>{0} : cpus;
}

std::vector<int> AllowedCpusOf(pid_t pid) {
  for (int num_cpus = 1024; num_cpus <= kMaxCpus; num_cpus *= 4) {
    CpuSet set(num_cpus);
    if (sched_getaffinity(pid, set.num_bytes(), set.get()) != 0) continue;  // EINVAL: the kernel's sets are larger
    std::vector<int> cpus;
    for (int cpu = 0; cpu < num_cpus; ++cpu) {
      if (set.Has(cpu)) cpus.push_back(cpu);
    }
    return cpus;
  }
  return {};
}

std::vector<std::vector<int>> MachineCores() {
  std::vector<std::vector<int>> cores;
  hwloc_topology_t topology;
  if (hwloc_topology_init(&topology) != 0) return cores;
  if (hwloc_topology_load(topology) == 0) {
    const int num_pus = std::max(0, hwloc_get_nbobjs_by_type(topology, HWLOC_OBJ_PU));
    hwloc_obj_t last_core = nullptr;
    for (int i = 0; i < num_pus; ++i) {  // in logical order: the CPUs of a core follow each other
      hwloc_obj_t pu = hwloc_get_obj_by_type(topology, HWLOC_OBJ_PU, i);
      hwloc_obj_t core = hwloc_get_ancestor_obj_by_type(topology, HWLOC_OBJ_CORE, pu);
      if (core == nullptr || core != last_core) cores.emplace_back();
      cores.back().push_back(static_cast<int>(pu->os_index));
      last_core = core;
    }
  }
  hwloc_topology_destroy(topology);
  return cores;
}

absl::StatusOr<AffinityPlan> PlanAffinity(const std::vector<std::vector<int>>& machine_cores,
                                          const AffinityRequest& request) {
  TF_RETURN_IF_ERROR(Validate(request));
  std::vector<std::set<int>> sets;
  for (const auto& cpus : request.cpus_per_local_rank) sets.emplace_back(cpus.begin(), cpus.end());
  const std::set<int>& own = sets[request.local_rank];
  const auto cores = CoresWithin(machine_cores, own);
  const Peers peers = FindPeers(sets, request.local_rank);

  AffinityPlan plan;
  plan.bound_by_launcher = BoundByLauncher(machine_cores, sets, own);
  const auto num_ranks = static_cast<double>(sets.size());
  const double fit = std::min(static_cast<double>(cores.size() / peers.num_overlapping),
                              std::floor(request.num_cpus_of_quota / num_ranks));
  const size_t threads = request.num_threads > 0 ? request.num_threads : static_cast<size_t>(std::max(1.0, fit));
  plan.num_threads = static_cast<int>(threads);
  const size_t total = threads * peers.num_overlapping;
  plan.oversubscribed = total > own.size() || static_cast<double>(threads) * num_ranks > request.num_cpus_of_quota;
  if (peers.num_overlapping != peers.num_equal) return plan;

  const size_t peer = peers.idx_among_equal;
  if (total <= cores.size()) {
    plan.cpus = PinToCores(cores, peer, peers.num_equal, threads);
  } else if (total <= own.size()) {
    plan.cpus = PinToCpus(cores, peer, peers.num_equal, threads);
  } else if (total % own.size() == 0) {
    const std::vector<int> all(own.begin(), own.end());
    for (size_t i = 0; i < threads; ++i) plan.cpus.push_back(all[(peer * threads + i) % all.size()]);
  }
  if (!plan.cpus.empty()) plan.binding = Binding::kPinned;
  return plan;
}

std::string AffinityPlan::ToString() const {
  return absl::StrCat(num_threads, num_threads == 1 ? " thread" : " threads",
                      cpus.empty() ? std::string(", not pinned") : absl::StrCat(" on CPUs ", absl::StrJoin(cpus, ",")),
                      bound_by_launcher ? ", bound by the launcher" : "",
                      oversubscribed ? ", more threads than CPUs" : "");
}

absl::Status PinThisThread(absl::Span<const int> cpus) {
  if (cpus.empty()) return absl::OkStatus();
  const auto [least, most] = std::minmax_element(cpus.begin(), cpus.end());
  if (*least < 0 || *most >= kMaxCpus) {
    return absl::InvalidArgumentError(absl::StrCat("cannot pin a thread to CPUs ", absl::StrJoin(cpus, ",")));
  }
  CpuSet set(*most + 1);
  for (int cpu : cpus) set.Add(cpu);
  if (sched_setaffinity(0, set.num_bytes(), set.get()) != 0) {
    return absl::FailedPreconditionError(
        absl::StrCat("cannot pin a thread to CPUs ", absl::StrJoin(cpus, ","), ": ", std::strerror(errno)));
  }
  return absl::OkStatus();
}

}  // namespace tokenferry

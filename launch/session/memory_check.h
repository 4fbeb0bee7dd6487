// Whether what ranks will hold fits into their host, or their GPU: asked before a weight is read. The kernel would say
// no by killing a rank in the middle of the loading.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "comm/transport/topology.h"
#include "launch/ranks/bootstrap.h"
#include "runtime/engine/memory_plan.h"

namespace tokenferry {

// "30.1 GiB", "12.5 MiB"
std::string FormatBytes(int64_t num_bytes);

// Memory that ranks share: a host's, or a GPU's.
struct MemoryPlace {
  const char* kind = "host";  // or "GPU"
  std::string name;           // "host a", "a GPU of host a"
  std::vector<RankId> ranks;
};
// Ranks on CPUs share their host's; ranks on GPUs, of which gpu_per_rank [R] tells those of a host apart, their GPU's.
std::vector<MemoryPlace> MemoryPlaces(const Topology& topology, const std::vector<int64_t>& gpu_per_rank);

// ResourceExhausted, in one line with the numbers and what to do, for the first place whose ranks together need more
// than `available_bytes_per_rank` [R] says is there (of each place its smallest; AvailableMemory, AvailableGpuBytes). A
// pure function.
absl::Status FitsPlaces(const std::vector<RankMemory>& memory_per_rank,
                        const std::vector<int64_t>& available_bytes_per_rank, const std::vector<MemoryPlace>& places);

// Collective. FitsPlaces with what is there now, the same on every rank.
absl::Status CheckMemory(RankContext& context, const std::vector<RankMemory>& memory_per_rank);

}  // namespace tokenferry

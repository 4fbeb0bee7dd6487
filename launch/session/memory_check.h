// Whether what the ranks of a host will hold fits into it: asked before a weight is read. The kernel would say no by
// killing a rank in the middle of the loading.
#pragma once

#include <string>
#include <vector>

#include "comm/transport/topology.h"
#include "launch/ranks/bootstrap.h"
#include "runtime/engine/memory_plan.h"

namespace tokenferry {

// "30.1 GiB", "12.5 MiB"
std::string FormatBytes(int64_t num_bytes);

// ResourceExhausted, in one line with the numbers and what to do, for the first host whose ranks together need more
// than `available_bytes_per_rank` [R] says is there (of each host its smallest; AvailableMemory). A pure function.
absl::Status FitsHosts(const std::vector<RankMemory>& memory_per_rank,
                       const std::vector<int64_t>& available_bytes_per_rank, const Topology& topology);

// Collective. FitsHosts with what is there now, the same on every rank.
absl::Status CheckMemory(RankContext& context, const std::vector<RankMemory>& memory_per_rank);

}  // namespace tokenferry

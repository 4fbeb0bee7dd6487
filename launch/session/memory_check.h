// Whether what ranks will hold fits into their host, or their GPU: asked before a weight is read. The kernel would say
// no by killing a rank in the middle of the loading.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "comm/exchange/path/options.h"
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
  int64_t nccl_bytes = 0;  // NcclBytes of its ranks
};
// Ranks on CPUs share their host's; ranks on GPUs, of which gpu_per_rank [R] tells those of a host apart, their GPU's.
std::vector<MemoryPlace> MemoryPlaces(const Topology& topology, const std::vector<int64_t>& gpu_per_rank);

// What NCCL takes of a rank's GPU when rows are first sent, long after this check: for each rank of the same host up to
// 32 channels with 10 MiB to receive into and 2 MiB to send from (github.com/NVIDIA/nccl/issues/1685: an all-to-all of
// 8 H100 took 3.3 GB), for those of other hosts buffers that all of them share. Fewer channels (NCCL_MAX_P2P_NCHANNELS)
// take less. 0 where nothing is sent by NCCL: of one host's ranks that read each other's memory.
inline constexpr int64_t kNcclBytesPerLocalPeer = int64_t{384} << 20;
inline constexpr int64_t kNcclBytesOfNetwork = int64_t{512} << 20;
int64_t NcclBytes(const Topology& topology, RankId rank, ExchangePath path);

// ResourceExhausted, in one line with the numbers and what to do, for the first place whose ranks together need more
// than `available_bytes_per_rank` [R] says is there (of each place its smallest; AvailableMemory, AvailableGpuBytes). A
// pure function.
absl::Status FitsPlaces(const std::vector<RankMemory>& memory_per_rank,
                        const std::vector<int64_t>& available_bytes_per_rank, const std::vector<MemoryPlace>& places);

// Collective. FitsPlaces with what is there now, the same on every rank.
absl::Status CheckMemory(RankContext& context, const std::vector<RankMemory>& memory_per_rank, ExchangePath path);

}  // namespace tokenferry

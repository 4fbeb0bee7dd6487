#include "launch/session/memory_check.h"

#include <algorithm>
#include <cstring>
#include <map>

#include "absl/strings/str_format.h"
#include "comm/transport/collectives.h"
#include "comm/tuning/exchange_choice.h"
#include "core/device/cuda_device.h"
#include "core/host/cgroup.h"
#include "core/host/memory_info.h"
#include "core/mib.h"

namespace tokenferry {
namespace {

// The fewest places, with one rank on each, that hold the model when every one has `available_bytes`; 0: no number
// does.
int64_t FewestPlaces(const RankMemory& rank, int64_t expert_bytes, int64_t available_bytes) {
  const int64_t for_experts = available_bytes - (rank.total() - rank.experts);
  if (expert_bytes == 0) return for_experts >= 0 ? 1 : 0;
  return for_experts > 0 ? (expert_bytes + for_experts - 1) / for_experts : 0;
}

std::string Remedy(const std::vector<RankMemory>& memory_per_rank, int64_t available_bytes, const char* kind) {
  int64_t expert_bytes = 0;
  RankMemory largest;
  for (const RankMemory& rank : memory_per_rank) {
    expert_bytes += rank.experts;
    if (rank.total() - rank.experts >= largest.total() - largest.experts) largest = rank;
  }
  const int64_t num_places = FewestPlaces(largest, expert_bytes, available_bytes);
  RankMemory smaller = largest;
  smaller.cache = 0, smaller.exchange = 0;
  std::string remedy;
  if (num_places == 1) {
    remedy = absl::StrCat("start 1 rank on this ", kind, " instead: every rank holds the parts that are no experts");
  } else if (num_places > 1) {
    remedy = absl::StrCat("start ", num_places, " ranks on ", num_places, " ", kind, "s like this one");
  } else if (FewestPlaces(smaller, expert_bytes, available_bytes) > 0) {
    return "give a smaller --kv-cache-tokens, or a smaller --prefill-chunk";
  } else {
    return absl::StrCat("no number of such ", kind, "s holds it: every rank needs the parts that are no experts");
  }
  if (largest.cache > largest.total() / 10) absl::StrAppend(&remedy, ", or give a smaller --kv-cache-tokens");
  return remedy;
}

}  // namespace

std::string FormatBytes(int64_t num_bytes) {
  const double mib = Mib(num_bytes);
  return mib < 1024 ? absl::StrFormat("%.1f MiB", mib) : absl::StrFormat("%.1f GiB", mib / 1024);
}

std::vector<MemoryPlace> MemoryPlaces(const Topology& topology, const std::vector<int64_t>& gpu_per_rank) {
  std::vector<MemoryPlace> places;
  for (const Topology::Host& host : topology.hosts) {
    if (gpu_per_rank.empty()) {
      places.push_back({.kind = "host", .name = absl::StrCat("host ", host.name), .ranks = host.ranks});
      continue;
    }
    std::map<int64_t, std::vector<RankId>> ranks_per_gpu;
    for (const RankId rank : host.ranks) ranks_per_gpu[gpu_per_rank[rank.value]].push_back(rank);
    for (const auto& [gpu, ranks] : ranks_per_gpu) {
      places.push_back({.kind = "GPU", .name = absl::StrCat("a GPU of host ", host.name), .ranks = ranks});
    }
  }
  return places;
}

int64_t NcclBytes(const Topology& topology, RankId rank, ExchangePath path) {
  const auto& host = topology.hosts[topology.host_idx_per_rank[rank.value]];
  if (MeansPeer(path, topology)) return 0;
  const int64_t of_network = topology.num_hosts() > 1 ? kNcclBytesOfNetwork : 0;
  return (static_cast<int64_t>(host.ranks.size()) - 1) * kNcclBytesPerLocalPeer + of_network;
}

absl::Status FitsPlaces(const std::vector<RankMemory>& memory_per_rank,
                        const std::vector<int64_t>& available_bytes_per_rank, const std::vector<MemoryPlace>& places) {
  for (const MemoryPlace& place : places) {
    RankMemory sum;
    int64_t needed_bytes = place.nccl_bytes, available_bytes = CgroupLimits::kNoLimit;
    for (const RankId rank : place.ranks) {
      const RankMemory& memory = memory_per_rank[rank.value];
      sum += memory;
      needed_bytes += memory.total();
      available_bytes = std::min(available_bytes, available_bytes_per_rank[rank.value]);
    }
    if (needed_bytes <= available_bytes) continue;
    // Ranks hold experts that they convert before they have a cache.
    const std::string conversion =
        sum.conversion > 0 ? absl::StrCat("; experts while they are converted ", FormatBytes(sum.conversion)) : "";
    const std::string growth = sum.exchange_growth > 0
                                   ? absl::StrCat("; up to ", FormatBytes(sum.exchange_growth), " more for exchanges")
                                   : "";
    const std::string nccl =
        place.nccl_bytes > 0 ? absl::StrCat("; NCCL's buffers ", FormatBytes(place.nccl_bytes)) : "";
    const int64_t most = available_bytes - place.nccl_bytes / static_cast<int64_t>(place.ranks.size());
    std::string parts;
    for (const MemoryPart& part : kMemoryParts) {
      absl::StrAppend(&parts, parts.empty() ? "" : ", ", part.name, " ", FormatBytes(sum.*part.bytes));
    }
    return absl::ResourceExhaustedError(absl::StrCat("not enough memory on ", place.name, ": its ", place.ranks.size(),
                                                     place.ranks.size() == 1 ? " rank needs " : " ranks need ",
                                                     FormatBytes(needed_bytes), " (", parts, conversion, nccl, growth,
                                                     ") and ", FormatBytes(available_bytes),
                                                     " are available: ", Remedy(memory_per_rank, most, place.kind)));
  }
  return absl::OkStatus();
}

absl::Status CheckMemory(RankContext& context, const std::vector<RankMemory>& memory_per_rank, ExchangePath path) {
  const bool on_gpu = context.gpu_ordinal >= 0;  // the same on all ranks
  const auto available = on_gpu ? AvailableGpuBytes(context.gpu_ordinal) : AvailableMemory();
  if (on_gpu) TF_RETURN_IF_ERROR(AgreeOnStatus(context.transport, {"memory"}, available.status()));
  // A host that does not tell (no /proc) is not refused.
  const int64_t mine = available.value_or(CgroupLimits::kNoLimit);
  const absl::string_view bytes(reinterpret_cast<const char*>(&mine), sizeof(mine));
  TF_ASSIGN_OR_RETURN(const std::vector<std::string> all, AllGather(context.transport, {"memory"}, bytes));
  std::vector<int64_t> available_bytes_per_rank(all.size());
  for (size_t r = 0; r < all.size(); ++r) {
    if (all[r].size() != sizeof(int64_t)) return absl::DataLossError(absl::StrCat("rank ", r, " tells no memory"));
    std::memcpy(&available_bytes_per_rank[r], all[r].data(), sizeof(int64_t));
  }
  std::vector<MemoryPlace> places = MemoryPlaces(context.topology, context.gpu_per_rank);
  const bool sends_by_nccl = context.transport.memory_kind() == MemoryKind::kDevice;
  for (MemoryPlace& place : places) {
    for (const RankId rank : place.ranks) {
      if (sends_by_nccl) place.nccl_bytes += NcclBytes(context.topology, rank, path);
    }
  }
  return AgreeOnStatus(context.transport, {"memory"}, FitsPlaces(memory_per_rank, available_bytes_per_rank, places));
}

}  // namespace tokenferry

#include "launch/ranks/gpu_choice.h"

#include <algorithm>
#include <map>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"

namespace tokenferry {

int MostRanksPerGpu(const std::vector<int>& ordinals, const Topology& topology,
                    const std::vector<std::vector<int64_t>>& gpus_per_rank) {
  std::map<std::pair<int, int64_t>, int> num_ranks;  // by host and GPU
  int most = 0;
  for (size_t r = 0; r < ordinals.size(); ++r) {
    if (gpus_per_rank[r].empty()) continue;
    most = std::max(most, ++num_ranks[{topology.host_idx_per_rank[r], gpus_per_rank[r][ordinals[r]]}]);
  }
  return most;
}

namespace {

// Of the first host whose ranks share.
absl::Status TooFewGpus(const std::vector<int>& ordinals, const Topology& topology,
                        const std::vector<std::vector<int64_t>>& gpus_per_rank) {
  for (const Topology::Host& host : topology.hosts) {
    std::set<int64_t> taken, seen;
    size_t num_takers = 0;
    for (const RankId rank : host.ranks) {
      const std::vector<int64_t>& gpus = gpus_per_rank[rank.value];
      if (gpus.empty()) continue;
      ++num_takers;
      taken.insert(gpus[ordinals[rank.value]]);
      seen.insert(gpus.begin(), gpus.end());
    }
    if (taken.size() == num_takers) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("host ", host.name, " has ", seen.size(), seen.size() == 1 ? " GPU" : " GPUs", " for ",
                     host.ranks.size(), " ranks: start one rank per GPU, or let them share with --share-gpus"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::optional<std::vector<int>>> ChooseGpus(DeviceChoice choice, GpuSharing sharing,
                                                           const Topology& topology,
                                                           const std::vector<std::vector<int64_t>>& gpus_per_rank) {
  if (choice == DeviceChoice::kCpu) return std::nullopt;
  std::vector<int> ordinals;
  bool everyone_has_one = true;
  for (size_t r = 0; r < gpus_per_rank.size(); ++r) {
    const int num_gpus = static_cast<int>(gpus_per_rank[r].size());
    everyone_has_one &= num_gpus > 0;
    ordinals.push_back(num_gpus > 0 ? topology.local_idx_per_rank[r] % num_gpus : 0);
  }
  const absl::Status fits =
      sharing == GpuSharing::kAllowed ? absl::OkStatus() : TooFewGpus(ordinals, topology, gpus_per_rank);
  if (choice == DeviceChoice::kAuto && (!everyone_has_one || !fits.ok())) return std::nullopt;
  TF_RETURN_IF_ERROR(fits);
  return ordinals;
}

}  // namespace tokenferry

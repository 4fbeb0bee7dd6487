#include "launch/ranks/gpu_choice.h"

#include <algorithm>
#include <map>
#include <utility>

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

std::optional<std::vector<int>> ChooseGpus(DeviceChoice choice, const Topology& topology,
                                           const std::vector<std::vector<int64_t>>& gpus_per_rank) {
  if (choice == DeviceChoice::kCpu) return std::nullopt;
  std::vector<int> ordinals;
  bool everyone_has_one = true;
  for (size_t r = 0; r < gpus_per_rank.size(); ++r) {
    const int num_gpus = static_cast<int>(gpus_per_rank[r].size());
    everyone_has_one &= num_gpus > 0;
    ordinals.push_back(num_gpus > 0 ? topology.local_idx_per_rank[r] % num_gpus : 0);
  }
  if (choice == DeviceChoice::kCuda) return ordinals;
  if (!everyone_has_one || MostRanksPerGpu(ordinals, topology, gpus_per_rank) > 1) return std::nullopt;
  return ordinals;
}

}  // namespace tokenferry

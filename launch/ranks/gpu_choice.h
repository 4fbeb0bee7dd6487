// Which GPU a rank takes, decided alike by all ranks from what each of them can see.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "comm/transport/topology.h"
#include "core/status.h"
#include "launch/cli/shared_flags.h"

namespace tokenferry {

// CUDA ordinal of each rank's GPU, or nothing: the job runs on CPUs. `gpus_per_rank` is VisibleGpus() of each rank. The
// ranks of a host take the GPUs that they see in turn; a launcher may also show each rank one of its own.
//  auto: GPUs, if every rank then has one; never an error.
//  cuda: always. A rank that sees none takes ordinal 0, which its device will refuse, saying why.
// Ranks share GPUs under GpuSharing::kAllowed only: else, where there are fewer than ranks, auto takes none, and cuda
// is InvalidArgument with both numbers.
enum class GpuSharing : uint8_t { kRefused, kAllowed };
absl::StatusOr<std::optional<std::vector<int>>> ChooseGpus(DeviceChoice choice, GpuSharing sharing,
                                                           const Topology& topology,
                                                           const std::vector<std::vector<int64_t>>& gpus_per_rank);

// How many ranks, at most, have to share one GPU under that choice.
int MostRanksPerGpu(const std::vector<int>& ordinals, const Topology& topology,
                    const std::vector<std::vector<int64_t>>& gpus_per_rank);

}  // namespace tokenferry

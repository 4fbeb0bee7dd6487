// Which GPU a rank takes, decided alike by all ranks from what each of them can see.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "comm/transport/topology.h"
#include "launch/cli/shared_flags.h"

namespace tokenferry {

// CUDA ordinal of each rank's GPU, or nothing: the job runs on CPUs. `gpus_per_rank` is VisibleGpus() of each rank. The
// ranks of a host take the GPUs that they see in turn; a launcher may also show each rank one of its own.
//  auto: GPUs, if every rank then has one for itself; never an error.
//  cuda: always. Ranks of a host with fewer GPUs share them; one that sees none takes ordinal 0, which its device will
//  refuse, saying why.
std::optional<std::vector<int>> ChooseGpus(DeviceChoice choice, const Topology& topology,
                                           const std::vector<std::vector<int64_t>>& gpus_per_rank);

// How many ranks, at most, have to share one GPU under that choice.
int MostRanksPerGpu(const std::vector<int>& ordinals, const Topology& topology,
                    const std::vector<std::vector<int64_t>>& gpus_per_rank);

}  // namespace tokenferry

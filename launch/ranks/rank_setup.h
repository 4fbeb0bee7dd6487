// What a rank agrees on with the others before any work: instruction set, cores and device.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "comm/transport/topology.h"
#include "comm/transport/transport.h"
#include "core/device/device.h"
#include "core/host/affinity.h"
#include "core/host/isa.h"
#include "launch/cli/flags.h"

namespace tokenferry {

// The best set in all of `masks` (SupportedIsas() of each rank), or in what --instruction-set leaves of them: that set
// and those before it. InvalidArgument, naming the first rank without it, when a rank does not have the wanted one.
absl::StatusOr<Isa> AgreeOnIsa(const std::vector<uint32_t>& masks, const std::string& instruction_set);

struct RankSetup {
  Topology topology;
  Isa isa = Isa::kPortable;
  AffinityPlan affinity;
  std::unique_ptr<Device> device;
};

// Collective. Pins the calling thread, and creates the device on the cores that are this rank's. An error of any rank
// is the error of all (AgreeOnStatus).
absl::StatusOr<RankSetup> SetUpRank(Transport& transport, const SharedFlags& flags);

}  // namespace tokenferry

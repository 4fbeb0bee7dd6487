// What a rank agrees on with the others before any work: instruction set, cores, device, and what moves rows.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "comm/transport/topology.h"
#include "comm/transport/transport.h"
#include "core/device/device.h"
#include "core/host/affinity.h"
#include "core/host/isa.h"
#include "launch/cli/shared_flags.h"

namespace tokenferry {

// The best set in all of `masks` (SupportedIsas() of each rank), or in what --instruction-set leaves of them: that set
// and those before it. InvalidArgument, naming the first rank without it, when a rank does not have the wanted one.
absl::StatusOr<Isa> AgreeOnIsa(const std::vector<uint32_t>& masks, const std::string& instruction_set);

struct RankSetup {
  Topology topology;
  Isa isa = Isa::kPortable;
  AffinityPlan affinity;
  std::vector<std::vector<int>> cpus_per_local_rank;  // of this host: what each rank may run on
  std::unique_ptr<Device> device;
  // Moves rows and messages of host memory. The control transport, as long as every device's rows pass through the
  // host; one of device memory is made here, around the control transport, since it needs the device.
  Transport* transport = nullptr;
};

// Collective. In this order: over `control`, which moves host memory, the ranks swap what their machines have; each
// pins its calling thread and creates its device on the cores that are its own; then what moves rows, which needs both.
// An error of any rank is the error of all (AgreeOnStatus). `control` must outlive the result.
absl::StatusOr<RankSetup> SetUpRank(Transport& control, const SharedFlags& flags);

}  // namespace tokenferry

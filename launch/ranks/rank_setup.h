// What a rank agrees on with the others before any work: instruction set, cores, device, and what moves rows.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "comm/transport/nccl/nccl_transport.h"
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

// Whether rows of GPUs go by NCCL.
enum class NcclUse : uint8_t {
  kNever,
  kIfPossible,  // where every rank has a GPU of its own and NCCL is there
  kAlways,      // or an error
};

struct RankSetup {
  Topology topology;
  Isa isa = Isa::kPortable;
  AffinityPlan affinity;
  std::vector<std::vector<int>> cpus_per_local_rank;  // of this host: what each rank may run on
  std::unique_ptr<Device> device;
  GpuUse gpu_use = GpuUse::kOwn;      // of all ranks
  std::vector<int64_t> gpu_per_rank;  // [R] tells the GPUs of a host apart; empty: ranks are on CPUs
  int gpu_ordinal = -1;               // of this rank's
  // Of device memory, around the control transport; null: rows pass through the host.
  std::unique_ptr<Transport> device_transport;
  // Moves rows and messages of host memory: device_transport, or the control transport.
  Transport* transport = nullptr;
};

// Collective. In this order: over `control`, which moves host memory, the ranks swap what their machines have; each
// pins its calling thread and creates its device on the cores that are its own; then what moves rows, which needs both.
// An error of any rank is the error of all (AgreeOnStatus). `control` must outlive the result.
absl::StatusOr<RankSetup> SetUpRank(Transport& control, const SharedFlags& flags, NcclUse nccl);

}  // namespace tokenferry

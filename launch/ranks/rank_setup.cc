#include "launch/ranks/rank_setup.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "comm/transport/collectives.h"
#include "core/device/cpu_device.h"
#include "core/device/cuda_device.h"
#include "core/host/cgroup.h"
#include "core/host/wait.h"

namespace tokenferry {
namespace {

// What each rank tells the others about its machine.
struct MachineHeader {
  uint32_t isas = 0;
  double num_cpus_of_quota = 0;  // CgroupLimits::num_cpus
};
struct Machine {
  MachineHeader header;
  std::vector<int> cpus;  // it may run on
};

std::string Encode(const Machine& machine) {
  std::string bytes(sizeof(MachineHeader) + machine.cpus.size() * sizeof(int32_t), '\0');
  std::memcpy(bytes.data(), &machine.header, sizeof(MachineHeader));
  if (!machine.cpus.empty()) {
    std::memcpy(bytes.data() + sizeof(MachineHeader), machine.cpus.data(), machine.cpus.size() * sizeof(int32_t));
  }
  return bytes;
}

absl::StatusOr<Machine> Decode(const std::string& bytes, size_t rank) {
  if (bytes.size() < sizeof(MachineHeader) || bytes.size() % sizeof(int32_t) != 0) {
    return absl::DataLossError(absl::StrCat("rank ", rank, " describes its machine in ", bytes.size(),
                                            " bytes; is it the same version of tokenferry?"));
  }
  Machine machine;
  std::memcpy(&machine.header, bytes.data(), sizeof(MachineHeader));
  machine.cpus.resize((bytes.size() - sizeof(MachineHeader)) / sizeof(int32_t));
  if (!machine.cpus.empty()) {
    std::memcpy(machine.cpus.data(), bytes.data() + sizeof(MachineHeader), machine.cpus.size() * sizeof(int32_t));
  }
  return machine;
}

absl::Status PlanCpus(RankId rank, const std::vector<Machine>& machines, int num_threads, RankSetup* setup) {
  const Topology& topology = setup->topology;
  AffinityRequest request;
  request.local_rank = topology.local_idx_per_rank[rank.value];
  request.num_threads = num_threads;
  for (const RankId peer : topology.hosts[topology.host_idx_per_rank[rank.value]].ranks) {
    request.cpus_per_local_rank.push_back(machines[peer.value].cpus);
    request.num_cpus_of_quota = std::min(request.num_cpus_of_quota, machines[peer.value].header.num_cpus_of_quota);
  }
  TF_ASSIGN_OR_RETURN(setup->affinity, PlanAffinity(MachineCores(), request));
  const AffinityPlan& plan = setup->affinity;
  setup->cpus_per_local_rank = std::move(request.cpus_per_local_rank);
  if (plan.oversubscribed) SetHostLoad(HostLoad::kOversubscribed);
  if (!plan.cpus.empty()) TF_RETURN_IF_ERROR(PinThisThread({plan.cpus.data(), 1}));
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<Device>> CreateDevice(const SharedFlags& flags, const RankSetup& setup, RankId rank) {
  if (flags.device == DeviceChoice::kCuda) {
    return CreateCudaDevice({.ordinal = setup.topology.local_idx_per_rank[rank.value]});
  }
  CpuDeviceOptions options;
  options.num_threads = setup.affinity.num_threads;
  options.cpus = setup.affinity.cpus;
  options.isa = setup.isa;
  return CreateCpuDevice(std::move(options));
}

// The part after the exchange, which may fail on one rank only.
absl::Status SetUpAlone(const SharedFlags& flags, RankId rank, const std::vector<std::string>& encoded,
                        RankSetup* setup) {
  std::vector<Machine> machines;
  std::vector<uint32_t> masks;
  for (size_t r = 0; r < encoded.size(); ++r) {
    TF_ASSIGN_OR_RETURN(Machine machine, Decode(encoded[r], r));
    masks.push_back(machine.header.isas);
    machines.push_back(std::move(machine));
  }
  TF_ASSIGN_OR_RETURN(setup->isa, AgreeOnIsa(masks, flags.instruction_set));
  TF_RETURN_IF_ERROR(PlanCpus(rank, machines, flags.num_threads, setup));
  TF_ASSIGN_OR_RETURN(setup->device, CreateDevice(flags, *setup, rank));
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<Isa> AgreeOnIsa(const std::vector<uint32_t>& masks, const std::string& instruction_set) {
  uint32_t common = ~uint32_t{0};
  for (const uint32_t mask : masks) common &= mask;
  if (instruction_set.empty()) return BestIsa(common);
  TF_ASSIGN_OR_RETURN(const Isa wanted, IsaFromName(instruction_set));
  const uint32_t bit = uint32_t{1} << static_cast<int>(wanted);
  for (size_t r = 0; r < masks.size(); ++r) {
    if (masks[r] & bit) continue;
    return absl::InvalidArgumentError(absl::StrCat("--instruction-set '", instruction_set, "': rank ", r,
                                                   " does not have it; the best that all ranks have is ",
                                                   IsaName(BestIsa(common))));
  }
  return wanted;
}

absl::StatusOr<RankSetup> SetUpRank(Transport& control, const SharedFlags& flags) {
  RankSetup setup;
  setup.topology = Topology::Of(control);
  const Machine mine{{SupportedIsas(), ReadCgroupLimits().num_cpus}, AllowedCpus()};
  TF_ASSIGN_OR_RETURN(const std::vector<std::string> encoded,
                      AllGather(control, {.phase = "start: machines"}, Encode(mine)));
  const absl::Status alone = SetUpAlone(flags, control.rank(), encoded, &setup);
  TF_RETURN_IF_ERROR(AgreeOnStatus(control, {.phase = "start: devices"}, alone));
  setup.transport = &control;
  return setup;
}

}  // namespace tokenferry

#include "launch/ranks/rank_setup.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "comm/transport/collectives.h"
#include "comm/transport/nccl/nccl_transport.h"
#include "core/device/cpu_device.h"
#include "core/device/cuda_device.h"
#include "core/host/cgroup.h"
#include "core/host/wait.h"
#include "core/log.h"
#include "launch/ranks/gpu_choice.h"

namespace tokenferry {
namespace {

// What each rank tells the others about its machine.
struct MachineHeader {
  uint32_t isas = 0;
  int32_t num_gpus = 0;
  double num_cpus_of_quota = 0;  // CgroupLimits::num_cpus
};
struct Machine {
  MachineHeader header;
  std::vector<int64_t> gpus;  // VisibleGpus(), where the job may take them
  std::vector<int> cpus;      // it may run on
};

template <class T>
void AppendValues(const std::vector<T>& values, std::string& bytes) {
  bytes.append(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T));
}

template <class T>
std::vector<T> ValuesOf(absl::string_view bytes) {
  std::vector<T> values(bytes.size() / sizeof(T));
  if (!bytes.empty()) std::memcpy(values.data(), bytes.data(), values.size() * sizeof(T));
  return values;
}

// The header, the GPUs, the CPUs.
std::string Encode(const Machine& machine) {
  std::string bytes(reinterpret_cast<const char*>(&machine.header), sizeof(MachineHeader));
  AppendValues(machine.gpus, bytes);
  AppendValues(machine.cpus, bytes);
  return bytes;
}

absl::StatusOr<Machine> Decode(absl::string_view bytes, size_t rank) {
  Machine machine;
  if (bytes.size() >= sizeof(MachineHeader)) std::memcpy(&machine.header, bytes.data(), sizeof(MachineHeader));
  const size_t begin = sizeof(MachineHeader), gpu_bytes = machine.header.num_gpus * sizeof(int64_t);
  if (bytes.size() < begin || machine.header.num_gpus < 0 || bytes.size() - begin < gpu_bytes ||
      (bytes.size() - begin) % sizeof(int32_t) != 0) {
    return absl::DataLossError(absl::StrCat("rank ", rank, " describes its machine in ", bytes.size(),
                                            " bytes; is it the same version of tokenferry?"));
  }
  machine.gpus = ValuesOf<int64_t>(bytes.substr(begin, gpu_bytes));
  machine.cpus = ValuesOf<int>(bytes.substr(begin + gpu_bytes));
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

absl::StatusOr<std::unique_ptr<Device>> CreateDevice(const SharedFlags& flags, RankId rank,
                                                     const std::vector<Machine>& machines, RankSetup* setup) {
  std::vector<std::vector<int64_t>> gpus_per_rank;
  for (const Machine& machine : machines) gpus_per_rank.push_back(machine.gpus);
  const GpuSharing sharing = flags.share_gpus ? GpuSharing::kAllowed : GpuSharing::kRefused;
  TF_ASSIGN_OR_RETURN(const auto ordinals, ChooseGpus(flags.device, sharing, setup->topology, gpus_per_rank));
  if (ordinals) {
    const int most = MostRanksPerGpu(*ordinals, setup->topology, gpus_per_rank);
    if (most > 1 && rank == RankId(0)) {
      LogWarning(absl::StrCat(most, " ranks share a GPU: start one rank per GPU for speed"));
    }
    setup->gpu_use = most > 1 ? GpuUse::kShared : GpuUse::kOwn;
    for (size_t r = 0; r < gpus_per_rank.size(); ++r) {
      setup->gpu_per_rank.push_back(gpus_per_rank[r].empty() ? 0 : gpus_per_rank[r][(*ordinals)[r]]);
    }
    setup->gpu_ordinal = (*ordinals)[rank.value];
    return CreateCudaDevice({.ordinal = setup->gpu_ordinal});
  }
  CpuDeviceOptions options;
  options.num_threads = setup->affinity.num_threads;
  options.cpus = setup->affinity.cpus;
  options.isa = setup->isa;
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
  TF_ASSIGN_OR_RETURN(setup->device, CreateDevice(flags, rank, machines, setup));
  return absl::OkStatus();
}

// Collective. Sets `transport`.
absl::Status CreateTransport(Transport& control, NcclUse nccl, RankSetup* setup) {
  setup->transport = &control;
  const bool is_possible =
      setup->device->kind() == DeviceKind::kCuda && setup->gpu_use == GpuUse::kOwn && control.num_ranks() > 1;
  if (nccl == NcclUse::kNever || (nccl == NcclUse::kIfPossible && !is_possible)) return absl::OkStatus();
  auto created = CreateNcclTransport(control, *setup->device, setup->gpu_use);
  if (created.ok()) {
    setup->device_transport = *std::move(created);
    setup->transport = setup->device_transport.get();
    return absl::OkStatus();
  }
  // All ranks have found that there is no NCCL that they can use.
  const bool is_missing = absl::IsFailedPrecondition(created.status()) && IsAgreedOn(created.status());
  if (nccl == NcclUse::kAlways) return Annotate(created.status(), "--transport nccl");
  if (!is_missing) return created.status();
  if (control.rank() == RankId(0)) {
    LogWarning(absl::StrCat("rows pass through the hosts' memory: ", created.status().message()));
  }
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

absl::StatusOr<RankSetup> SetUpRank(Transport& control, const SharedFlags& flags, NcclUse nccl) {
  RankSetup setup;
  setup.topology = Topology::Of(control);
  Machine mine{.header = {.isas = SupportedIsas(), .num_cpus_of_quota = ReadCgroupLimits().num_cpus},
               .gpus = {},
               .cpus = AllowedCpus()};
  if (flags.device != DeviceChoice::kCpu) mine.gpus = VisibleGpus();
  mine.header.num_gpus = static_cast<int32_t>(mine.gpus.size());
  TF_ASSIGN_OR_RETURN(const std::vector<std::string> encoded,
                      AllGather(control, {.phase = "start: machines"}, Encode(mine)));
  const absl::Status alone = SetUpAlone(flags, control.rank(), encoded, &setup);
  TF_RETURN_IF_ERROR(AgreeOnStatus(control, {.phase = "start: devices"}, alone));
  TF_RETURN_IF_ERROR(CreateTransport(control, nccl, &setup));
  return setup;
}

}  // namespace tokenferry

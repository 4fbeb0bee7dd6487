#include "tests/fakegpu/nccl/rank_threads.h"

#include <atomic>
#include <thread>

#include "comm/transport/local_transport.h"
#include "comm/transport/nccl/nccl_transport.h"
#include "core/device/cuda_device.h"
#include "tests/fakegpu/cudart/runtime.h"

namespace tokenferry::fakegpu {
namespace {

absl::Status RunRank(Transport& local, const std::function<absl::Status(Transport&, Device&)>& body) {
  TF_ASSIGN_OR_RETURN(const std::unique_ptr<Device> device, CreateCudaDevice({.ordinal = local.rank().value}));
  TF_ASSIGN_OR_RETURN(const std::unique_ptr<Transport> transport, CreateNcclTransport(local, *device));
  const absl::Status status = body(*transport, *device);
  if (!status.ok()) transport->Abort(status);  // as a program does
  return status;
}

}  // namespace

std::vector<RankEnd> RunRanks(int num_ranks, uint32_t seed, absl::Duration timeout,
                              const std::function<absl::Status(Transport&, Device&)>& body) {
  {
    Runtime& runtime = Runtime::Get();
    const std::lock_guard lock(runtime.mutex);
    runtime.num_devices = num_ranks;
    runtime.sticky = cudaSuccess;
    runtime.queue.Seed(seed);
  }
  auto group = CreateLocalGroup(num_ranks, {.timeout = timeout});
  std::vector<RankEnd> ends(num_ranks);
  std::atomic<int> num_ended{0};
  std::vector<std::thread> threads;
  for (auto& member : group) {
    threads.emplace_back([&, local = std::move(member)]() mutable {
      RankEnd& end = ends[local->rank().value];
      try {
        end.status = RunRank(*local, body);
      } catch (const RankDied&) {
        end.has_died = true;
      }
      // A rank that hangs goes on when it is the last one.
      if (++num_ended == num_ranks - 1) ReleaseHung();
      local.reset();  // the others see that it has gone
    });
  }
  for (std::thread& thread : threads) thread.join();
  return ends;
}

}  // namespace tokenferry::fakegpu

#include "tests/comm/transport/nccl_group.h"

#include <gtest/gtest.h>

#include <thread>

#include "comm/transport/local_transport.h"
#include "comm/transport/nccl/nccl_library.h"
#include "comm/transport/nccl/nccl_transport.h"
#include "core/device/cuda_device.h"

namespace tokenferry {

int MostNcclRanks() { return LoadNccl().ok() ? static_cast<int>(VisibleGpus().size()) : 0; }

void RunNcclThreads(int num_ranks, absl::Duration timeout, const NcclRankBody& body) {
  auto group = CreateLocalGroup(num_ranks, {.timeout = timeout});
  std::vector<std::thread> threads;
  for (auto& control : group) {
    threads.emplace_back([&] {
      const std::unique_ptr<Transport> local = std::move(control);  // first to come, last to go
      SCOPED_TRACE(local->ToString());
      auto device = CreateCudaDevice({.ordinal = local->rank().value});
      ASSERT_TRUE(device.ok()) << device.status();
      auto transport = CreateNcclTransport(*local, **device);
      ASSERT_TRUE(transport.ok()) << transport.status();
      body(**transport, **device);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

}  // namespace tokenferry

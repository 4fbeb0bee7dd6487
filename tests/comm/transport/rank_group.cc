#include "tests/comm/transport/rank_group.h"

#include <gtest/gtest.h>

#include <latch>
#include <thread>

#include "comm/transport/checked_transport.h"
#include "comm/transport/faulty_transport.h"
#include "comm/transport/local_transport.h"
#include "comm/transport/mpi_transport.h"
#include "tests/support/slack.h"

namespace tokenferry {

const char* BackendName(Backend backend) {
  switch (backend) {
    case Backend::kLocal:
      return "local";
    case Backend::kCheckedLocal:
      return "checked_local";
    case Backend::kFaultyLocal:
      return "faulty_local";
    case Backend::kMpi:
      return "mpi";
    case Backend::kCheckedMpi:
      return "checked_mpi";
  }
  return "?";
}

void RunThreads(Backend backend, int num_ranks, absl::Duration timeout, const RankBody& body) {
  auto group = CreateLocalGroup(num_ranks, {.timeout = timeout});
  std::vector<std::thread> threads;
  for (auto& local : group) {
    if (backend == Backend::kCheckedLocal) local = CreateCheckedTransport(std::move(local));
    if (backend == Backend::kFaultyLocal) local = CreateFaultyTransport(std::move(local), {});
    threads.emplace_back([&body, &local] {
      SCOPED_TRACE(local->ToString());
      body(*local);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

void RunProcesses(Backend backend, absl::Duration timeout, const RankBody& body) {
  auto transport = CreateMpiTransport({.timeout = timeout});
  ASSERT_TRUE(transport.ok()) << transport.status();
  if (backend == Backend::kCheckedMpi) *transport = CreateCheckedTransport(*std::move(transport));
  SCOPED_TRACE((*transport)->ToString());
  body(**transport);
}

std::vector<absl::Status> RunWithOneStuck(int num_ranks, const std::string& phase,
                                          const std::function<absl::Status(Transport&)>& body) {
  auto group = CreateLocalGroup(num_ranks, {.timeout = Slack(absl::Milliseconds(250))});
  std::latch others(num_ranks - 1);
  FaultOptions stuck;
  stuck.before_call = [&](const CallSite& site) {
    if (site.phase == phase) others.wait();
  };
  group[1] = CreateFaultyTransport(std::move(group[1]), stuck);
  std::vector<absl::Status> status(num_ranks);
  std::vector<std::thread> threads;
  for (int r = 0; r < num_ranks; ++r) {
    threads.emplace_back([&, r] {
      status[r] = body(*group[r]);
      if (r != 1) others.count_down();
    });
  }
  for (std::thread& thread : threads) thread.join();
  return status;
}

}  // namespace tokenferry

// Transports whose ranks are threads: the conformance suite, and what each of them does when ranks disagree or are
// late.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <mutex>
#include <thread>

#include "comm/peer/peer_group.h"
#include "comm/transport/checked_transport.h"
#include "comm/transport/collectives.h"
#include "comm/transport/faulty_transport.h"
#include "comm/transport/local_transport.h"
#include "comm/transport/topology.h"
#include "comm/wait/wait.h"
#include "core/device/cpu_device.h"
#include "core/host/clock.h"
#include "tests/comm/transport/conformance.h"
#include "tests/comm/transport/rank_group.h"
#include "tests/support/slack.h"

namespace tokenferry {
namespace {

using testing::AllOf;
using testing::HasSubstr;

class Conformance : public testing::TestWithParam<std::tuple<Backend, int, int>> {};

TEST_P(Conformance, Holds) {
  const auto [backend, num_ranks, case_idx] = GetParam();
  RunThreads(backend, num_ranks, absl::Seconds(30), kConformanceCases[case_idx].body);
}

INSTANTIATE_TEST_SUITE_P(Threads, Conformance,
                         testing::Combine(testing::Values(Backend::kLocal, Backend::kCheckedLocal,
                                                          Backend::kFaultyLocal),
                                          testing::Values(1, 2, 3, 4, 5, 8), testing::Range(0, kNumConformanceCases)),
                         [](const auto& info) {
                           return absl::StrCat(BackendName(std::get<0>(info.param)), "_", std::get<1>(info.param), "_",
                                               kConformanceCases[std::get<2>(info.param)].name);
                         });

class DeviceConformance : public testing::TestWithParam<std::tuple<Backend, int, CpuExecution>> {};

TEST_P(DeviceConformance, Holds) {
  const auto [backend, num_ranks, execution] = GetParam();
  for (int i = 0; i < kNumDeviceConformanceCases; ++i) {
    SCOPED_TRACE(kDeviceConformanceCases[i].name);
    RunThreads(backend, num_ranks, absl::Seconds(30), [&, execution = execution](Transport& t) {
      kDeviceConformanceCases[i].body(t, *CreateCpuDevice({.execution = execution}));
    });
  }
}

INSTANTIATE_TEST_SUITE_P(Threads, DeviceConformance,
                         testing::Combine(testing::Values(Backend::kLocal, Backend::kCheckedLocal),
                                          testing::Values(1, 2, 3, 5),
                                          testing::Values(CpuExecution::kEager, CpuExecution::kLazy)),
                         [](const auto& info) {
                           return absl::StrCat(BackendName(std::get<0>(info.param)), "_", std::get<1>(info.param),
                                               std::get<2>(info.param) == CpuExecution::kLazy ? "_lazy" : "_eager");
                         });

// Each rank's status of one transfer of `send_bytes(rank, peer)`, expecting `recv_bytes(rank, peer)`.
using BytesOf = std::function<int64_t(int, int)>;
absl::Status Transfer(Transport& t, const CallSite& site, const BytesOf& send_bytes, const BytesOf& recv_bytes) {
  std::vector<int64_t> send_offsets(t.num_ranks() + 1), recv_offsets(t.num_ranks() + 1);
  for (int r = 0; r < t.num_ranks(); ++r) {
    send_offsets[r + 1] = send_offsets[r] + send_bytes(t.rank().value, r);
    recv_offsets[r + 1] = recv_offsets[r] + recv_bytes(t.rank().value, r);
  }
  std::vector<char> send(send_offsets.back() + 1), recv(recv_offsets.back() + 1);
  return t.HostAllToAllV(site, {send.data(), send_offsets, recv.data(), recv_offsets});
}

int64_t Eight(int, int) { return 8; }

std::vector<absl::Status> RunAll(std::vector<std::unique_ptr<Transport>>& group,
                                 const std::function<absl::Status(Transport&)>& body) {
  std::vector<absl::Status> status(group.size());
  std::vector<std::thread> threads;
  for (size_t r = 0; r < group.size(); ++r) {
    threads.emplace_back([&, r] { status[r] = body(*group[r]); });
  }
  for (std::thread& thread : threads) thread.join();
  return status;
}

TEST(LocalTransport, NamesARankThatNeverComes) {
  auto group = CreateLocalGroup(3, {.timeout = absl::Milliseconds(150)});
  const auto status = RunAll(group, [](Transport& t) {
    if (t.rank().value == 2) return absl::OkStatus();
    return Transfer(t, {"combine rows", 3, 17}, Eight, Eight);
  });
  for (int r = 0; r < 2; ++r) {
    EXPECT_EQ(status[r].code(), absl::StatusCode::kDeadlineExceeded);
    EXPECT_THAT(std::string(status[r].message()), AllOf(HasSubstr("layer 3, combine rows, step 17, transfer 0"),
                                                        HasSubstr(absl::StrCat("rank ", r, " waits")),
                                                        HasSubstr("rank 2"), HasSubstr("0 of 8 bytes arrived")));
    EXPECT_EQ(Barrier(*group[r], {"later"}), status[r]);
  }
  // The late rank learns that the others have gone.
  EXPECT_EQ(Transfer(*group[2], {"combine rows", 3, 17}, Eight, Eight).code(), absl::StatusCode::kDeadlineExceeded);
}

TEST(LocalTransport, DetectsSizesThatDiffer) {
  for (int64_t sent : {0, 7, 9}) {
    auto group = CreateLocalGroup(2, {.timeout = absl::Seconds(30)});
    const auto status = RunAll(group, [&](Transport& t) {
      return Transfer(
          t, {"sizes"}, [&](int me, int) -> int64_t { return me == 0 ? sent : 8; },
          [&](int me, int r) -> int64_t { return me == 0 && r == 0 ? sent : 8; });
    });
    EXPECT_EQ(status[1].code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_THAT(std::string(status[1].message()),
                AllOf(HasSubstr("expects 8 bytes, but rank 0 sends"), HasSubstr(absl::StrCat("sends ", sent))));
  }
}

TEST(LocalTransport, DetectsBytesNobodyExpects) {
  auto group = CreateLocalGroup(2, {.timeout = absl::Seconds(30)});
  const auto status = RunAll(group, [&](Transport& t) {
    return Transfer(
        t, {"sizes"}, [](int me, int r) -> int64_t { return me == 0 && r == 1 ? 5 : 0; },
        [](int, int) -> int64_t { return 0; });
  });
  EXPECT_EQ(status[0].code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status[0].message()), HasSubstr("sends 5 bytes that rank 1 does not expect"));
}

TEST(LocalTransport, AbortEndsThoseThatWait) {
  auto group = CreateLocalGroup(3, {.timeout = absl::Seconds(60)});
  const Stopwatch watch;
  const auto status = RunAll(group, [](Transport& t) {
    if (t.rank().value == 1) {
      t.Abort(absl::DataLossError("shard 7 is broken"));
      return absl::OkStatus();
    }
    return Barrier(t, {"load"});
  });
  EXPECT_LT(watch.elapsed(), absl::Seconds(30));
  for (int r : {0, 2}) {
    EXPECT_EQ(status[r].code(), absl::StatusCode::kDataLoss);
    EXPECT_THAT(std::string(status[r].message()), AllOf(HasSubstr("shard 7 is broken"), HasSubstr("rank 1")));
  }
  EXPECT_EQ(Barrier(*group[1], {"load"}).code(), absl::StatusCode::kDataLoss);
}

TEST(LocalTransport, StopRequestEndsAWaitWithNames) {
  auto group = CreateLocalGroup(2, {.timeout = absl::Seconds(60)});
  RequestStop();
  const auto status = RunAll(group, [](Transport& t) {
    return t.rank().value == 1 ? absl::OkStatus() : Transfer(t, {"dispatch rows", 5}, Eight, Eight);
  });
  ClearStopRequest();
  EXPECT_EQ(status[0].code(), absl::StatusCode::kCancelled);
  EXPECT_THAT(std::string(status[0].message()),
              AllOf(HasSubstr("layer 5, dispatch rows"), HasSubstr("waits for rank 1")));
}

TEST(LocalTransport, CountsWhomItWaitedFor) {
  auto group = CreateLocalGroup(3, {.timeout = absl::Seconds(60)});
  group[2] = CreateFaultyTransport(std::move(group[2]), {.delay = absl::Milliseconds(100), .delay_call = 1});
  const auto status = RunAll(group, [](Transport& t) {
    for (int i = 0; i < 3; ++i) TF_RETURN_IF_ERROR(Transfer(t, {"wait"}, Eight, Eight));
    return absl::OkStatus();
  });
  for (int r = 0; r < 3; ++r) EXPECT_EQ(status[r], absl::OkStatus());
  for (int r = 0; r < 2; ++r) EXPECT_GE(group[r]->wait_seconds_per_rank()[2], 0.05);
}

TEST(CheckedTransport, NamesBothSidesOfACallOrderMismatch) {
  auto group = CreateLocalGroup(2, {.timeout = absl::Seconds(30)});
  for (auto& t : group) t = CreateCheckedTransport(std::move(t));
  const auto status = RunAll(group, [](Transport& t) {
    return Transfer(t, t.rank().value == 0 ? CallSite{"dispatch rows", 4, 2} : CallSite{"combine rows", 3, 2}, Eight,
                    Eight);
  });
  for (int r = 0; r < 2; ++r) {
    EXPECT_EQ(status[r].code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_THAT(std::string(status[r].message()),
                AllOf(HasSubstr("layer 4, dispatch rows, step 2"), HasSubstr("layer 3, combine rows, step 2"),
                      HasSubstr("rank 0"), HasSubstr("rank 1")));
    EXPECT_EQ(Barrier(*group[r], {"later"}), status[r]);
  }
}

TEST(CheckedTransport, NamesBothSidesOfASizeMismatch) {
  auto group = CreateLocalGroup(2, {.timeout = absl::Seconds(30)});
  for (auto& t : group) t = CreateCheckedTransport(std::move(t));
  const auto status = RunAll(group, [](Transport& t) {
    return Transfer(
        t, {"sizes"}, [](int me, int r) -> int64_t { return me == 0 && r == 1 ? 40 : 8; }, Eight);
  });
  for (int r = 0; r < 2; ++r) {
    EXPECT_EQ(status[r].code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_THAT(std::string(status[r].message()), AllOf(HasSubstr("40 bytes"), HasSubstr("expects 8")));
  }
}

TEST(CheckedTransport, PoisonsWhatWillArrive) {
  auto group = CreateLocalGroup(1);
  // Call 0 swaps the headers; the transfer itself never happens.
  auto t = CreateCheckedTransport(CreateFaultyTransport(std::move(group[0]), {.drop_from_call = 1}));
  std::vector<uint8_t> send(8, 2), recv(16, 1);
  const std::vector<int64_t> send_offsets = {0, 8}, recv_offsets = {4, 12};
  EXPECT_EQ(t->HostAllToAllV({"x"}, {send.data(), send_offsets, recv.data(), recv_offsets}).code(),
            absl::StatusCode::kUnavailable);
  EXPECT_EQ(recv, (std::vector<uint8_t>{1, 1, 1, 1, kPoison, kPoison, kPoison, kPoison, kPoison, kPoison, kPoison,
                                        kPoison, 1, 1, 1, 1}));
}

TEST(FaultyTransport, ADroppedRankIsNamedByTheOthers) {
  const absl::Duration timeout = Slack(absl::Seconds(1));
  auto group = CreateLocalGroup(4, {.timeout = timeout});
  group[3] = CreateFaultyTransport(std::move(group[3]), {.drop_from_call = 2, .drop_wait = 2 * timeout});
  const auto status = RunAll(group, [](Transport& t) {
    for (int i = 0; i < 5; ++i) TF_RETURN_IF_ERROR(Transfer(t, {"dispatch rows", i}, Eight, Eight));
    return absl::OkStatus();
  });
  EXPECT_EQ(status[3].code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(status[3].message()), HasSubstr("dropped at call 2"));
  for (int r = 0; r < 3; ++r) {
    EXPECT_THAT(std::string(status[r].message()), AllOf(HasSubstr("layer 2, dispatch rows"), HasSubstr("rank 3")));
  }
}

TEST(FaultyTransport, SkewAndPhaseDelayChangeNothingButTime) {
  auto group = CreateLocalGroup(3, {.timeout = absl::Seconds(30)});
  for (auto& t : group) {
    t = CreateFaultyTransport(std::move(t), {.delay = absl::Milliseconds(1),
                                             .delay_phase = "conformance",
                                             .max_skew = absl::Milliseconds(2),
                                             .skew_seed = 7});
  }
  RunAll(group, [](Transport& t) {
    for (int i = 0; i < 30; ++i) {
      TransferAndCheck(t, i, [](int src, int dst, int n) -> int64_t { return (src + 2 * dst + n) % 5 * 100; });
    }
    return absl::OkStatus();
  });
}

// What decorators do not change is what is inside, in whatever order they are put around each other.
TEST(ForwardingTransport, ReachesWhatIsInside) {
  auto group = CreateLocalGroup(2, {.timeout = absl::Seconds(7)});
  PeerGroup* const peers = &group[0]->peers();
  peers->AddWaitSeconds(RankId(1), 2.5);
  std::vector<std::string> phases;
  FaultOptions options;
  options.before_call = [&](const CallSite& site) { phases.push_back(site.phase); };
  auto t = CreateCheckedTransport(CreateFaultyTransport(std::move(group[0]), options));
  EXPECT_EQ(&t->peers(), peers);
  EXPECT_EQ(t->timeout(), absl::Seconds(7));
  EXPECT_EQ(t->host(RankId(1)), "(this process)");
  EXPECT_EQ(t->memory_kind(), MemoryKind::kHost);
  EXPECT_EQ(t->wait_seconds_per_rank()[1], 2.5);
  EXPECT_EQ(t->ToString(), "checked faulty local rank 0 of 2");
  EXPECT_EQ(t->EnterPhase({"experts"}), absl::OkStatus());
  EXPECT_EQ(phases, std::vector<std::string>{"experts"});
  t->Abort(absl::DataLossError("shard 7 is broken"));
  EXPECT_EQ(peers->CheckAlive(RankId(0)).code(), absl::StatusCode::kDataLoss);
}

TEST(Topology, GroupsRanksByHost) {
  const Topology t = Topology::FromHosts({"b", "a", "b", "c", "a"});
  EXPECT_EQ(t.num_hosts(), 3);
  EXPECT_EQ(t.local_idx_per_rank, (std::vector<int>{0, 0, 1, 0, 1}));
  EXPECT_EQ(t.host_idx_per_rank, (std::vector<int>{0, 1, 0, 2, 1}));
  EXPECT_TRUE(t.same_host(RankId(1), RankId(4)));
  EXPECT_FALSE(t.same_host(RankId(0), RankId(1)));
  EXPECT_EQ(t.ToString(), "5 ranks on 3 hosts: b (ranks 0 2), a (ranks 1 4), c (ranks 3)");
}

}  // namespace
}  // namespace tokenferry

// Path peer as GPUs take it, ranks as threads: its outputs are those of alltoallv on CPUs, bit for bit; its errors are
// named. On the CPU device, where the references of the operations run, and on a CUDA device where there is one.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <random>

#include "comm/exchange/peer/device_peer_exchange.h"
#include "comm/transport/local_transport.h"
#include "core/device/cpu_device.h"
#include "core/device/cuda_device.h"
#include "tests/comm/exchange/device_peer_case.h"
#include "tests/comm/transport/rank_group.h"
#include "tests/support/slack.h"

namespace tokenferry {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using Path = DevicePeerRank::Path;

constexpr int kMostRanks = 5;

class DevicePeerTest : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    if (std::string(GetParam()) != "cuda") return;
    const auto device = CreateCudaDevice({.ordinal = kMostRanks - 1});
    if (!device.ok()) GTEST_SKIP() << device.status().message();
  }
  // Threads may not share a GPU on this path.
  static std::unique_ptr<Device> NewDevice(const Transport& t) {
    const std::string name = GetParam();
    if (name == "cuda") return *CreateCudaDevice({.ordinal = t.rank().value});
    return CreateCpuDevice({.execution = name == "lazy" ? CpuExecution::kLazy : CpuExecution::kEager});
  }
};
INSTANTIATE_TEST_SUITE_P(Devices, DevicePeerTest, testing::Values("eager", "lazy", "cuda"),
                         [](const auto& info) { return std::string(info.param); });

TEST_P(DevicePeerTest, OutputsAreThoseOfAllToAllV) {
  const uint32_t seed = std::random_device{}() % 1'000'000, num_cases = std::string(GetParam()) == "cuda" ? 2 : 6;
  for (const int num_ranks : {1, 2, 3, kMostRanks}) {
    RunThreads(Backend::kLocal, num_ranks, absl::Seconds(60), [&](Transport& t) {
      const auto device = NewDevice(t);
      for (uint32_t i = 0; i < num_cases && !HasFailure(); ++i) ExpectDevicePeerEqualsAllToAllV(t, *device, seed + i);
    });
  }
}

// A rank that does not come, in the middle of a list of exchanges.
enum class Missing { kRows, kOutputs };
absl::Status RunUntilMissing(Transport& transport, Device& device, Missing missing, bool aborts) {
  DevicePeerCases cases = RandomDevicePeerCases(3, transport.num_ranks());
  const DevicePeerCases::Step step{std::vector<int64_t>(transport.num_ranks(), 4), 2, 0, false, 8};
  TF_ASSIGN_OR_RETURN(const auto rank, DevicePeerRank::Create(transport, device, cases, Path::kDevicePeer));
  TF_RETURN_IF_ERROR(rank->Run(step).status());
  if (transport.rank() != RankId(2)) return rank->Run(step).status();
  if (missing == Missing::kOutputs) {
    const CallSite site{"test", 2, 5};
    TF_ASSIGN_OR_RETURN(Buffer experts, device.Allocate(32, MemoryKind::kDevice, "experts"));
    rank->stream().Fill(experts.data(), 0xFF, 32);  // none
    TF_ASSIGN_OR_RETURN(Buffer rows, device.Allocate(4 * cases.options.hidden * 4, MemoryKind::kDevice, "rows"));
    rank->stream().Fill(rows.data(), 0, rows.num_bytes());
    const Routing routing{MakeMatrix<int32_t>(experts.data(), 4, 2), {}};
    TF_RETURN_IF_ERROR(rank->exchange().Plan(rank->stream(), site, routing, cases.placements[0]));
    TF_RETURN_IF_ERROR(
        rank->exchange()
            .Dispatch(rank->stream(), site, MakeMatrix<const float>(rows.data(), 4, cases.options.hidden))
            .status());
    TF_RETURN_IF_ERROR(rank->stream().Synchronize());
  }
  if (aborts) transport.Abort(absl::ResourceExhaustedError("rank 2 is full"));
  return absl::OkStatus();
}

TEST_P(DevicePeerTest, ARankThatDoesNotComeIsNamed) {
  const absl::Duration timeout = Slack(absl::Seconds(2));  // of every wait, also where all come
  for (const Missing missing : {Missing::kRows, Missing::kOutputs}) {
    RunThreads(Backend::kLocal, 3, timeout, [&](Transport& t) {
      const auto device = NewDevice(t);
      const absl::Status status = RunUntilMissing(t, *device, missing, /*aborts=*/false);
      if (t.rank() == RankId(2)) {
        EXPECT_EQ(status, absl::OkStatus());
        return;
      }
      EXPECT_EQ(status.code(), absl::StatusCode::kDeadlineExceeded) << status;
      EXPECT_THAT(std::string(status.message()),
                  AllOf(HasSubstr(absl::StrCat("within ", absl::FormatDuration(timeout))), HasSubstr("layer 2"),
                        HasSubstr(missing == Missing::kRows ? "dispatch rows" : "combine rows"), HasSubstr("step 5"),
                        HasSubstr("transfer 2"), HasSubstr(absl::StrCat("rank ", t.rank().value, " waits for rank 2")),
                        HasSubstr("0 of 1 flags arrived"), HasSubstr("its last sign: exchange 1")));
    });
  }
}

TEST_P(DevicePeerTest, ARankThatEndsIsNamedLongBeforeTheDeadline) {
  if (std::string(GetParam()) != "cuda") GTEST_SKIP() << "where the host itself executes the wait, nobody looks around";
  RunThreads(Backend::kLocal, 3, absl::Minutes(10), [&](Transport& t) {
    const auto device = NewDevice(t);
    const absl::Status status = RunUntilMissing(t, *device, Missing::kRows, /*aborts=*/true);
    if (t.rank() == RankId(2)) return;
    EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
    EXPECT_THAT(std::string(status.message()),
                AllOf(HasSubstr("layer 2"), HasSubstr("dispatch rows"), HasSubstr("rank 2 on host"),
                      HasSubstr("rank 2 has ended"), HasSubstr("rank 2 is full")));
  });
}

TEST_P(DevicePeerTest, RanksThatDisagreeAreTold) {
  RunThreads(Backend::kLocal, 2, absl::Seconds(20), [&](Transport& t) {
    const auto device = NewDevice(t);
    DevicePeerCases cases = RandomDevicePeerCases(3, 2);
    cases.options.hidden += t.rank().value;
    const auto other_rows = DevicePeerRank::Create(t, *device, cases, Path::kDevicePeer);
    EXPECT_EQ(other_rows.status().code(), absl::StatusCode::kFailedPrecondition) << other_rows.status();
    cases = RandomDevicePeerCases(3, 2);
    cases.options.max_tokens = 0;
    EXPECT_THAT(std::string(DevicePeerRank::Create(t, *device, cases, Path::kDevicePeer).status().message()),
                HasSubstr("has to know the most tokens"));
    cases = RandomDevicePeerCases(3, 2);
    cases.options.max_peer_bytes = 1000;
    EXPECT_EQ(DevicePeerRank::Create(t, *device, cases, Path::kDevicePeer).status().code(),
              absl::StatusCode::kResourceExhausted);
    cases = RandomDevicePeerCases(3, 2);
    cases.placements[0] = Placement::Linear(cases.num_experts, 2);
    if (t.rank() == RankId(1)) {
      std::vector<std::vector<int>> all_on_one(2);
      for (int e = 0; e < cases.num_experts; ++e) all_on_one[0].push_back(e);
      cases.placements[0] = *Placement::FromTable(cases.num_experts, all_on_one);
    }
    const auto rank = DevicePeerRank::Create(t, *device, cases, Path::kDevicePeer);
    ASSERT_TRUE(rank.ok()) << rank.status();
    const absl::Status status = (*rank)->Run({{1, 1}, 1, 0, false, 2}).status();
    EXPECT_THAT(std::string(status.message()), HasSubstr("disagree on the placement"));
  });
}

TEST_P(DevicePeerTest, AnExchangeLargerThanItWasCreatedForIsRefused) {
  RunThreads(Backend::kLocal, 1, absl::Seconds(20), [&](Transport& t) {
    const auto device = NewDevice(t);
    const DevicePeerCases cases = RandomDevicePeerCases(3, 1);
    const auto rank = DevicePeerRank::Create(t, *device, cases, Path::kDevicePeer);
    ASSERT_TRUE(rank.ok()) << rank.status();
    const absl::Status status = (*rank)->Run({{41}, 1, 0, false, 2}).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
    EXPECT_THAT(std::string(status.message()), HasSubstr("an exchange of 41 tokens with top-1 is larger than the 40"));
  });
}

TEST_P(DevicePeerTest, ARankWithMoreTokensThanItSaysThatAnyHasIsRefused) {
  RunThreads(Backend::kLocal, 1, absl::Seconds(20), [&](Transport& t) {
    const auto device = NewDevice(t);
    const DevicePeerCases cases = RandomDevicePeerCases(3, 1);
    const auto rank = DevicePeerRank::Create(t, *device, cases, Path::kDevicePeer);
    ASSERT_TRUE(rank.ok()) << rank.status();
    (*rank)->Prepare({{5}, 1, 0, false, 2});
    const absl::Status status = (*rank)->Enqueue({{5}, 1, 0, false, 2}, /*most_tokens=*/4);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    EXPECT_THAT(std::string(status.message()),
                HasSubstr("rank 0 has 5 tokens, but most_tokens says that no rank has more than 4"));
  });
}

TEST_P(DevicePeerTest, SaysHowManySelectionsToExpect) {
  RunThreads(Backend::kLocal, 1, absl::Seconds(20), [&](Transport& t) {
    const auto device = NewDevice(t);
    DevicePeerCases cases = RandomDevicePeerCases(3, 1);
    cases.num_experts = 4;
    cases.placements = {Placement::Linear(4, 1)};
    const int64_t h = cases.options.hidden;
    for (const int64_t most_tokens : {0, 7}) {
      const auto rank = DevicePeerRank::Create(t, *device, cases, Path::kDevicePeer);
      ASSERT_TRUE(rank.ok()) << rank.status();
      Stream& stream = (*rank)->stream();
      const CallSite site{"test", 2, 5};
      Buffer experts = *device->Allocate(5 * 2 * 4, MemoryKind::kDevice, "experts"),
             rows = *device->Allocate(5 * h * 4, MemoryKind::kDevice, "rows");
      stream.Fill(experts.data(), 0xFF, experts.num_bytes());  // none
      stream.Fill(rows.data(), 0, rows.num_bytes());
      const Routing routing{MakeMatrix<int32_t>(experts.data(), 5, 2), {}};
      ASSERT_EQ((*rank)->exchange().Plan(stream, site, routing, cases.placements[0], most_tokens), absl::OkStatus());
      const auto arrived = (*rank)->exchange().Dispatch(stream, site, MakeMatrix<const float>(rows.data(), 5, h));
      ASSERT_TRUE(arrived.ok()) << arrived.status();
      EXPECT_EQ(arrived->max_selections, (most_tokens == 0 ? cases.options.max_tokens : most_tokens) * 4);
      EXPECT_EQ(arrived->expected_selections, (most_tokens == 0 ? 5 : most_tokens) * 2);
      EXPECT_EQ(stream.Synchronize(), absl::OkStatus());
    }
  });
}

// Three times the same graph, with other rows in the same memory, equal to the exchange enqueued each time.
TEST_P(DevicePeerTest, AGraphOfAnExchangeEqualsTheExchange) {
  if (std::string(GetParam()) != "cuda") GTEST_SKIP() << "no graphs on the CPU";
  RunThreads(Backend::kLocal, 3, absl::Seconds(60), [&](Transport& t) {
    const auto device = NewDevice(t);
    DevicePeerCases cases = RandomDevicePeerCases(11, 3);
    const DevicePeerCases::Step step{{5, 0, 17}, 3, 0, true, 21};
    auto cpu = CreateCpuDevice({});
    auto want = DevicePeerRank::Create(t, *cpu, cases, Path::kAllToAllV);
    auto got = DevicePeerRank::Create(t, *device, cases, Path::kDevicePeer);
    ASSERT_TRUE(got.ok() && want.ok());
    ASSERT_TRUE((*got)->Run(step).ok());  // sizes what grows
    const auto want_out = (*want)->Run(step);
    (*got)->Prepare(step);
    ASSERT_EQ((*got)->stream().Synchronize(), absl::OkStatus());
    ASSERT_EQ((*got)->stream().BeginCapture(), absl::OkStatus());
    const absl::Status enqueued = (*got)->Enqueue(step);
    const auto graph = (*got)->stream().EndCapture();
    ASSERT_EQ(enqueued, absl::OkStatus());
    ASSERT_TRUE(graph.ok()) << graph.status();
    for (int i = 0; i < 3; ++i) {
      (*got)->stream().LaunchGraph(**graph);
      const auto got_out = (*got)->Read(step);
      ASSERT_TRUE(got_out.ok()) << got_out.status();
      EXPECT_EQ(std::memcmp(got_out->data(), want_out->data(), want_out->size() * sizeof(float)), 0) << "replay " << i;
    }
    EXPECT_EQ((*got)->exchange().stats((*got)->stream())->num_exchanges, 4) << "replays are counted";
  });
}

}  // namespace
}  // namespace tokenferry

// The NCCL transport on the fake: many orders of streams, and ranks that die, hang or lose their connection at every
// operation.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/host/clock.h"
#include "tests/comm/exchange/exchange_case.h"
#include "tests/comm/transport/conformance.h"
#include "tests/comm/transport/hosted_transport.h"
#include "tests/fakegpu/nccl/rank_threads.h"
#include "tests/support/seeds.h"

namespace tokenferry::fakegpu {
namespace {

using testing::AllOf;
using testing::AnyOf;
using testing::HasSubstr;
using testing::IsEmpty;

const int kNumSeeds = NumTestSeeds(20, 8);                   // 8: every layout of hosts once
constexpr absl::Duration kLong = absl::Seconds(30);          // never reached
constexpr absl::Duration kShort = absl::Milliseconds(1500);  // reached by who hangs; nobody else is that late

class NcclTransportTest : public testing::Test {
 protected:
  void SetUp() override { TakeReports(); }
  void TearDown() override { SetFault({}); }
};

TEST_F(NcclTransportTest, ConformsInEveryOrder) {
  for (int seed = 1; seed <= kNumSeeds; ++seed) {
    SCOPED_TRACE(absl::StrCat("seed ", seed));
    for (int i = 0; i < kNumDeviceConformanceCases; ++i) {
      const auto ends = RunRanks(2 + seed % 3, seed, kLong, [&](Transport& t, Device& device) {
        kDeviceConformanceCases[i].body(t, device);
        return absl::OkStatus();
      });
      for (const RankEnd& end : ends) EXPECT_EQ(end.status, absl::OkStatus());
    }
  }
  EXPECT_THAT(TakeReports(), IsEmpty());
}

// The dense reference is what every path gives on CPUs (tests/comm/exchange/exchange_identity_test.cc).
TEST_F(NcclTransportTest, ExchangesHaveTheReferencesBitsInEveryOrder) {
  for (int seed = 1; seed <= kNumSeeds; ++seed) {
    SCOPED_TRACE(absl::StrCat("seed ", seed));
    const auto ends = RunRanks(1 + seed % 4, seed, kLong, [&](Transport& t, Device& device) {
      RunRandomCases(t, seed, 2, {.on = &device, .formats = Formats::kAll});
      RunChangingCases(t, seed, 4, {.on = &device});
      return absl::OkStatus();
    });
    for (const RankEnd& end : ends) EXPECT_EQ(end.status, absl::OkStatus());
  }
  EXPECT_THAT(TakeReports(), IsEmpty());
}

// Path two_level, whose ranks read each other's memory inside a host and send between hosts.
TEST_F(NcclTransportTest, TwoLevelHasTheReferencesBitsInEveryOrder) {
  const std::string layouts[] = {"a", "ab", "aab", "abab", "aa", "abb", "aabb", "abc"};
  for (int seed = 1; seed <= kNumSeeds; ++seed) {
    const std::string hosts = layouts[seed % 8];
    SCOPED_TRACE(absl::StrCat("seed ", seed, ", hosts ", hosts));
    const auto ends = RunRanks(static_cast<int>(hosts.size()), seed, kLong, [&](Transport& t, Device& device) {
      HostedTransport hosted(t, hosts);
      ExchangeRun run{.on = &device,
                      .num_rounds = 2,
                      .formats = Formats::kAll,
                      .path = ExchangePath::kTwoLevel,
                      .max_tokens = kMostCaseTokens,
                      .max_top_k = kMostCaseTopK};
      RunRandomCases(hosted, seed, 2, run);
      RunChangingCases(hosted, seed, 4, run);
      run.reduction = Reduction::kNode;
      RunRandomCases(hosted, seed + 1, 2, run);
      return absl::OkStatus();
    });
    for (const RankEnd& end : ends) EXPECT_EQ(end.status, absl::OkStatus());
  }
  EXPECT_THAT(TakeReports(), IsEmpty());
}

absl::Status TwoExchanges(Transport& t, Device& device) {
  for (int i = 0; i < 2; ++i) TF_RETURN_IF_ERROR(RunOneCase(t, ExchangePath::kAllToAllV, device));
  return absl::OkStatus();
}

// Rank 0 is alone on its host, and the server there of both others.
absl::Status TwoExchangesOfTwoLevels(Transport& t, Device& device) {
  HostedTransport hosted(t, "abb");
  for (int i = 0; i < 2; ++i) TF_RETURN_IF_ERROR(RunOneCase(hosted, ExchangePath::kTwoLevel, device));
  return absl::OkStatus();
}

using Exchanges = absl::Status (*)(Transport&, Device&);

// How many calls a rank makes; the last is the end of the communicator.
int64_t CallsOf(Exchanges exchanges, int num_ranks) {
  for (const RankEnd& end : RunRanks(num_ranks, 1, kLong, exchanges)) EXPECT_EQ(end.status, absl::OkStatus());
  return NumCalls(1);
}
int64_t CallsOfTwoExchanges(int num_ranks) { return CallsOf(TwoExchanges, num_ranks); }

constexpr int kRanks = 3;

// Rank 1 dies at each of its calls; from call `rank_2_done` on rank 2 needs nothing more of it.
void ExpectDeadRankIsNamed(Exchanges exchanges, int64_t num_calls, int64_t rank_2_done) {
  for (int64_t call = 0; call + 1 < num_calls; ++call) {  // the end is in a destructor, which cannot throw
    SCOPED_TRACE(absl::StrCat("dies at call ", call));
    SetFault({.rank = 1, .call = call, .kind = FaultKind::kThrow});
    const Stopwatch watch;
    const std::vector<RankEnd> ends = RunRanks(kRanks, static_cast<uint32_t>(call), kLong, exchanges);
    EXPECT_LT(watch.elapsed(), kLong);
    EXPECT_TRUE(ends[1].has_died);
    for (const int r : {0, 2}) {
      if (r == 2 && call >= rank_2_done && ends[r].status.ok()) continue;
      EXPECT_FALSE(ends[r].status.ok()) << "rank " << r;
      EXPECT_THAT(ends[r].status.message(),
                  AllOf(HasSubstr("rank 1"), AnyOf(HasSubstr("layer 2, "), HasSubstr("start"))));
    }
  }
  EXPECT_THAT(TakeReports(), IsEmpty());
}

TEST_F(NcclTransportTest, ARankThatDiesIsNamedByTheOthers) {
  const int64_t num_calls = CallsOfTwoExchanges(kRanks);
  ASSERT_EQ(num_calls, 1 + 2 * 2 * (2 * (kRanks - 1) + 1) + 1);  // start, 2 transfers each, end
  ExpectDeadRankIsNamed(TwoExchanges, num_calls, num_calls);
}

TEST_F(NcclTransportTest, ARankThatDiesOnPathTwoLevelIsNamedByTheOthers) {
  const int64_t num_calls = CallsOf(TwoExchangesOfTwoLevels, kRanks);
  ASSERT_EQ(num_calls, 1 + 2 * 2 * 3 + 1);  // start, 2 transfers each with one other host, end
  // In the last transfer rank 1's outputs are there for rank 2 of its host, which sends and gets through rank 0.
  ExpectDeadRankIsNamed(TwoExchangesOfTwoLevels, num_calls, num_calls - 1 - 3);
}

// Rank 1 hangs at every `step`th of its calls; from call `rank_2_done` on rank 2 needs nothing more of it.
void ExpectHungRankIsNamed(Exchanges exchanges, int64_t num_calls, int64_t step, int64_t rank_2_done) {
  for (int64_t call = 0; call + 1 < num_calls; call += step) {
    SCOPED_TRACE(absl::StrCat("hangs at call ", call));
    SetFault({.rank = 1, .call = call, .kind = FaultKind::kHang});
    const std::vector<RankEnd> ends = RunRanks(kRanks, static_cast<uint32_t>(call), kShort, exchanges);
    for (const int r : {0, 2}) {
      if (r == 2 && call >= rank_2_done && ends[r].status.ok()) continue;
      EXPECT_THAT(ends[r].status.message(), HasSubstr("rank 1")) << r;
      EXPECT_THAT(ends[r].status.message(), AnyOf(HasSubstr("layer 2, "), HasSubstr("start"))) << r;
    }
  }
  EXPECT_THAT(TakeReports(), IsEmpty());
}

TEST_F(NcclTransportTest, ARankThatHangsIsNamedAtTheDeadline) {
  const int64_t num_calls = CallsOfTwoExchanges(kRanks);
  ExpectHungRankIsNamed(TwoExchanges, num_calls, 5, num_calls);
}

TEST_F(NcclTransportTest, ARankThatHangsOnPathTwoLevelIsNamedAtTheDeadline) {
  const int64_t num_calls = CallsOf(TwoExchangesOfTwoLevels, kRanks);
  ExpectHungRankIsNamed(TwoExchangesOfTwoLevels, num_calls, 3, num_calls - 1 - 3);
}

TEST_F(NcclTransportTest, WhatIsMissingIsToldAsOnTheCpu) {
  // The first group of the first exchange: rank 1 has not begun "dispatch rows" on its stream, but has told so.
  SetFault({.rank = 1, .call = 1, .kind = FaultKind::kHang});
  const auto ends = RunRanks(kRanks, 1, kShort, TwoExchanges);
  EXPECT_EQ(ends[0].status.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_THAT(ends[0].status.message(), AllOf(HasSubstr("layer 2, dispatch rows, step 5, transfer 0: rank 0 waits for"),
                                              HasSubstr("rank 1 on host")));
}

// At each call of rank 1. Rank 0 needs it to the end.
void ExpectNcclsWords(Exchanges exchanges, int num_ranks) {
  const int64_t num_calls = CallsOf(exchanges, num_ranks);
  for (int64_t call = 1; call + 1 < num_calls; ++call) {
    SCOPED_TRACE(absl::StrCat("at call ", call));
    SetFault({.rank = 1, .call = call, .kind = FaultKind::kRemoteError});
    const auto ends = RunRanks(num_ranks, static_cast<uint32_t>(call), kLong, exchanges);
    EXPECT_THAT(ends[1].status.message(), HasSubstr("NCCL says"));
    EXPECT_THAT(ends[1].status.message(), HasSubstr("connection closed by remote peer"));
    EXPECT_THAT(ends[1].status.message(), HasSubstr("layer 2, "));
    EXPECT_THAT(ends[0].status.message(), HasSubstr("rank 1"));
  }
}

TEST_F(NcclTransportTest, AnErrorOfNcclIsToldWithItsWords) { ExpectNcclsWords(TwoExchanges, 2); }

TEST_F(NcclTransportTest, AnErrorOfNcclOnPathTwoLevelIsToldWithItsWords) {
  ExpectNcclsWords(TwoExchangesOfTwoLevels, kRanks);
}

}  // namespace
}  // namespace tokenferry::fakegpu

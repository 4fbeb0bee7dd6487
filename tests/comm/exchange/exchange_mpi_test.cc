// Dispatch and combine between processes; the same cases as with threads.
#include <gtest/gtest.h>

#include "comm/transport/collectives.h"
#include "comm/transport/faulty_transport.h"
#include "comm/transport/mpi_transport.h"
#include "tests/comm/exchange/exchange_case.h"
#include "tests/comm/transport/hosted_transport.h"
#include "tests/comm/transport/rank_group.h"

namespace tokenferry {
namespace {

class ExchangeOnProcesses : public testing::TestWithParam<std::tuple<Backend, ExchangePath>> {};

TEST_P(ExchangeOnProcesses, EqualsTheDenseReference) {
  constexpr uint32_t kSeed = 20260101;  // all ranks must draw the same
  const auto [backend, path] = GetParam();
  RunProcesses(backend, absl::Seconds(60), [path = path](Transport& t) {
    RunRandomCases(t, kSeed, 30, {.device = {.isa = BestIsa(SupportedIsas())}, .num_rounds = 2, .path = path});
  });
}

TEST_P(ExchangeOnProcesses, EqualsTheDenseReferenceWhileShapesAndDataChange) {
  const auto [backend, path] = GetParam();
  RunProcesses(backend, absl::Seconds(60), [path = path](Transport& t) {
    for (uint32_t seed : {1, 2, 3, 4}) RunChangingCases(t, seed, 30, {.path = path});
  });
}

TEST_P(ExchangeOnProcesses, ThreeExpertsAndManyTokens) {
  const auto [backend, path] = GetParam();
  RunProcesses(backend, absl::Seconds(60), [path = path](Transport& t) {
    const ExchangeCase c = RandomCase(2, 700, 3, 2, 256, DType::kF32);
    RunExchangeCase(t, c, Placement::Linear(3, t.num_ranks()), RandomTokenSplit(3, 700, t.num_ranks()), {.path = path});
  });
}

// As with threads (exchange_stats_test): the same bits, and the statistics name the rank.
TEST(LateProcess, IsTheOneThatOthersWaitFor) {
  constexpr int kRanks = 3, kLate = 1;
  constexpr absl::Duration kDelay = absl::Milliseconds(100);
  const ExchangeCase c = RandomCase(11, 60, 9, 4, 33, DType::kBF16);
  for (const ExchangePath path : AllPaths()) {
    std::vector<const char*> phases = {"plan counts", "plan selections", "dispatch rows", "experts", "combine rows"};
    if (path == ExchangePath::kTwoLevel) {
      phases.insert(phases.end(), {"plan forwards", "forward rows", "combine inside"});
    }
    for (const char* phase : phases) {
      SCOPED_TRACE(absl::StrCat(ExchangePathName(path), ", ", phase));
      auto transport = *CreateMpiTransport({.timeout = absl::Seconds(60)});
      if (transport->num_ranks() != kRanks) GTEST_SKIP() << "a test for " << kRanks << " ranks";
      FaultOptions faults;
      faults.delay_phase = phase;
      faults.delay = kDelay;
      if (transport->rank() == RankId(kLate)) transport = CreateFaultyTransport(std::move(transport), faults);
      HostedTransport hosted(*transport, "aab");
      RunExchangeCase(hosted, c, Placement::Linear(9, kRanks), {0, 20, 40, 60},
                      {.num_rounds = 2, .path = path, .tells_experts = true});
      const auto waits = AllGather(*transport, {"waits"}, absl::StrCat(transport->wait_seconds_per_rank()[kLate]));
      ASSERT_TRUE(waits.ok()) << waits.status();
      double for_late = 0;
      for (const std::string& seconds : *waits) for_late += std::strtod(seconds.c_str(), nullptr);
      EXPECT_GE(for_late, 0.5 * absl::ToDoubleSeconds(kDelay));  // of four times that much, on a busy machine too
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Processes, ExchangeOnProcesses,
                         testing::Combine(testing::Values(Backend::kMpi, Backend::kCheckedMpi),
                                          testing::Values(ExchangePath::kAllToAllV, ExchangePath::kPeer)),
                         [](const auto& info) {
                           return absl::StrCat(BackendName(std::get<0>(info.param)), "_",
                                               ExchangePathName(std::get<1>(info.param)));
                         });

}  // namespace
}  // namespace tokenferry

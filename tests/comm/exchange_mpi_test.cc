// Dispatch and combine between processes; the same cases as with threads.
#include <gtest/gtest.h>

#include "tests/comm/exchange_case.h"
#include "tests/comm/rank_group.h"

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

INSTANTIATE_TEST_SUITE_P(Processes, ExchangeOnProcesses,
                         testing::Combine(testing::Values(Backend::kMpi, Backend::kCheckedMpi),
                                          testing::Values(ExchangePath::kAllToAllV, ExchangePath::kPeer)),
                         [](const auto& info) {
                           return absl::StrCat(BackendName(std::get<0>(info.param)), "_",
                                               ExchangePathName(std::get<1>(info.param)));
                         });

}  // namespace
}  // namespace tokenferry

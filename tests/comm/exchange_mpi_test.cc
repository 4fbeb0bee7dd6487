// Dispatch and combine between processes; the same cases as with threads.
#include <gtest/gtest.h>

#include "tests/comm/exchange_case.h"
#include "tests/comm/rank_group.h"

namespace tokenferry {
namespace {

class ExchangeOnProcesses : public testing::TestWithParam<Backend> {};

TEST_P(ExchangeOnProcesses, EqualsTheDenseReference) {
  constexpr uint32_t kSeed = 20260101;  // all ranks must draw the same
  RunProcesses(GetParam(), absl::Seconds(60), [&](Transport& t) {
    RunRandomCases(t, kSeed, 30, {.device = {.isa = BestIsa(SupportedIsas())}, .num_rounds = 2});
  });
}

TEST_P(ExchangeOnProcesses, ThreeExpertsAndManyTokens) {
  RunProcesses(GetParam(), absl::Seconds(60), [&](Transport& t) {
    const ExchangeCase c = RandomCase(2, 700, 3, 2, 256, DType::kF32);
    RunExchangeCase(t, c, Placement::Linear(3, t.num_ranks()), RandomTokenSplit(3, 700, t.num_ranks()), {});
  });
}

INSTANTIATE_TEST_SUITE_P(Processes, ExchangeOnProcesses, testing::Values(Backend::kMpi, Backend::kCheckedMpi),
                         [](const auto& info) { return BackendName(info.param); });

}  // namespace
}  // namespace tokenferry

// The exchange over NCCL, on as many ranks as there are GPUs: the bits of the dense reference.
#include <gtest/gtest.h>

#include "tests/comm/exchange/exchange_case.h"
#include "tests/comm/transport/nccl_group.h"

namespace tokenferry {
namespace {

class NcclExchange : public testing::TestWithParam<int> {};

TEST_P(NcclExchange, HasTheReferencesBits) {
  if (MostNcclRanks() < GetParam()) GTEST_SKIP() << GetParam() << " ranks need a GPU each, and NCCL";
  RunNcclThreads(GetParam(), absl::Seconds(30), [](Transport& t, Device& device) {
    RunRandomCases(t, 7, 6, {.on = &device, .num_rounds = 2, .formats = Formats::kAll, .path = ExchangePath::kAuto});
    RunChangingCases(t, 8, 6, {.on = &device, .path = ExchangePath::kAllToAllV});
  });
}

INSTANTIATE_TEST_SUITE_P(Ranks, NcclExchange, testing::Values(1, 2, 3), testing::PrintToStringParamName());

}  // namespace
}  // namespace tokenferry

// An exchange in steady state takes no memory: operator new is counted on the rank's thread.
#include <gtest/gtest.h>

#include "tests/comm/exchange/allocation_counter.h"
#include "tests/comm/exchange/exchange_case.h"
#include "tests/comm/exchange/steady_exchanges.h"
#include "tests/comm/transport/hosted_transport.h"
#include "tests/comm/transport/rank_group.h"

namespace tokenferry {
namespace {

struct PathCase {
  ExchangePath path;
  Reduction reduction = Reduction::kExact;
  std::string name;
};
void PrintTo(const PathCase& c, std::ostream* os) { *os << c.name; }

std::vector<PathCase> AllPathsAndReductions() {
  std::vector<PathCase> cases = {{ExchangePath::kTwoLevel, Reduction::kNode, "two_level_node"}};
  for (const ExchangePath path : AllPaths()) cases.push_back({path, Reduction::kExact, ExchangePathName(path)});
  return cases;
}

class Allocations : public testing::TestWithParam<std::tuple<PathCase, DType, DType, const char*>> {};

TEST_P(Allocations, NoneInSteadyState) {
  const std::string hosts = std::get<3>(GetParam());
  RunThreads(Backend::kLocal, static_cast<int>(hosts.size()), absl::Seconds(60), [&](Transport& transport) {
    const auto& [path, wire_dtype, output_dtype, _] = GetParam();
    HostedTransport hosted(transport, path.path == ExchangePath::kPeer ? std::string(hosts.size(), 'a') : hosts);
    SteadyExchanges exchanges(hosted, path.path, path.reduction, wire_dtype, output_dtype);
    exchanges.WarmUp();
    const int64_t before = NumAllocations();
    exchanges.Run(100);
    EXPECT_EQ(NumAllocations(), before);
  });
}

INSTANTIATE_TEST_SUITE_P(Paths, Allocations,
                         testing::Combine(testing::ValuesIn(AllPathsAndReductions()),
                                          testing::Values(DType::kF32, DType::kBF16, DType::kF8E4M3),
                                          testing::Values(DType::kF32, DType::kBF16),
                                          testing::Values("a", "ab", "aab")));

}  // namespace
}  // namespace tokenferry

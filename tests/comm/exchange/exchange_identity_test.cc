// The same bits from every path, placement and layout of ranks: those of the dense reference, which knows none of them.
#include <gtest/gtest.h>

#include "tests/comm/exchange/exchange_case.h"
#include "tests/comm/transport/hosted_transport.h"
#include "tests/comm/transport/rank_group.h"

namespace tokenferry {
namespace {

struct NamedPlacement {
  const char* name;
  Placement (*make)(int num_experts, int num_ranks);
};
Placement Linear(int num_experts, int num_ranks) { return Placement::Linear(num_experts, num_ranks); }
// Neighbours on different ranks.
Placement RoundRobin(int num_experts, int num_ranks) {
  std::vector<std::vector<int>> table(num_ranks);
  for (int e = 0; e < num_experts; ++e) table[e % num_ranks].push_back(e);
  return *Placement::FromTable(num_experts, std::move(table));
}
Placement Replicated(int num_experts, int num_ranks) { return RandomPlacement(77, num_experts, num_ranks); }
Placement AllOnTheLast(int num_experts, int num_ranks) {
  std::vector<std::vector<int>> table(num_ranks);
  for (int e = num_experts - 1; e >= 0; --e) table.back().push_back(e);
  return *Placement::FromTable(num_experts, std::move(table));
}
constexpr NamedPlacement kPlacements[] = {
    {"linear", Linear}, {"round_robin", RoundRobin}, {"replicated", Replicated}, {"all_on_the_last", AllOnTheLast}};

// Whatever must not change a bit is a parameter here.
using Parameters = std::tuple<ExchangePath, NamedPlacement, const char*>;
class BitIdentity : public testing::TestWithParam<Parameters> {};

TEST_P(BitIdentity, OfEveryWayToExchange) {
  const auto& [path, placement, hosts] = GetParam();
  const std::string layout = hosts;
  const int num_ranks = static_cast<int>(layout.size());
  for (const DType output_dtype : {DType::kF32, DType::kBF16}) {
    if (output_dtype != DType::kF32 && path == ExchangePath::kTwoLevel) continue;
    ExchangeCase c = RandomCase(20261122, 90, 21, 6, 75, DType::kBF16);
    c.output_dtype = output_dtype;
    const Placement experts = placement.make(c.num_experts, num_ranks);
    const std::vector<int64_t> offsets = RandomTokenSplit(5, c.num_tokens(), num_ranks);
    RunThreads(Backend::kLocal, num_ranks, absl::Seconds(60), [&, path = path](Transport& t) {
      HostedTransport hosted(t, layout);
      RunExchangeCase(hosted, c, experts, offsets, {.device = {.num_threads = 1}, .num_rounds = 2, .path = path});
    });
  }
}

INSTANTIATE_TEST_SUITE_P(Matrix, BitIdentity,
                         testing::Combine(testing::ValuesIn(AllPaths()), testing::ValuesIn(kPlacements),
                                          testing::Values("a", "aa", "ab", "aab", "aabb", "abcab", "aaaabbbb")),
                         [](const auto& info) {
                           return absl::StrCat(ExchangePathName(std::get<0>(info.param)), "_",
                                               std::get<1>(info.param).name, "_", std::get<2>(info.param));
                         });

}  // namespace
}  // namespace tokenferry

#include "bench/alltoall/bytes.h"

#include <gtest/gtest.h>

#include <cmath>
#include <string>

#include "bench/alltoall/traffic.h"

namespace tokenferry {
namespace {

// `num_ranks` ranks on `num_hosts` hosts, blocks of equal size.
Topology MakeTopology(int num_ranks, int num_hosts) {
  std::vector<std::string> hosts;
  for (int r = 0; r < num_ranks; ++r) hosts.push_back("host" + std::to_string(r * num_hosts / num_ranks));
  return Topology::FromHosts(hosts);
}

std::vector<RowCounts> CountAll(int tokens, int num_experts, int top_k, const Topology& topology) {
  const int R = topology.num_ranks();
  const Placement placement = Placement::Linear(num_experts, R);
  std::vector<RowCounts> counts;
  for (int r = 0; r < R; ++r) {
    const HostTraffic traffic = MakeTraffic({}, {num_experts, top_k, 9}, nullptr, int64_t{r} * tokens, tokens);
    counts.push_back(CountRows({traffic.expert_idx, tokens, top_k}, placement, topology));
  }
  return counts;
}

TEST(Bytes, AFewTokensByHand) {
  // Ranks 0 1 | 2 on two hosts, experts 0 1 | 2 3 | 4 5. Rank 0's tokens.
  const Topology topology = Topology::FromHosts({"a", "a", "b"});
  const std::vector<int32_t> experts = {0, 1, 2, /**/ 4, 5, -1, /**/ 3, 4, 2};
  const RowCounts c = CountRows({experts, 3, 3}, Placement::Linear(6, 3), topology);
  EXPECT_EQ(c.num_missing, 1);
  EXPECT_EQ(c.selections_per_rank, (std::vector<int64_t>{2, 3, 3}));
  EXPECT_EQ(c.rows_per_rank, (std::vector<int64_t>{1, 2, 2}));
  EXPECT_EQ(c.rows_per_host, (std::vector<int64_t>{2, 2}));
  EXPECT_EQ(c.selections_per_expert, (std::vector<int64_t>{1, 1, 2, 1, 2, 1}));
  RowCounts nothing = CountRows({{}, 0, 3}, Placement::Linear(6, 3), topology);
  const std::vector<RowCounts> all = {c, nothing, nothing};
  const RowBases bases = SumBases(all, topology);
  EXPECT_EQ(bases.selection, 8);
  EXPECT_EQ(bases.rank, 5);
  EXPECT_EQ(bases.node, 4);
  EXPECT_EQ(bases.wire, 2);
  const RowSkew skew = MeasureSkew(all);
  EXPECT_EQ(skew.busiest_rank_rows, 5);  // what rank 0 sends
  EXPECT_EQ(skew.busiest_rank_selections, 8);
  EXPECT_DOUBLE_EQ(skew.rank_imbalance, 3 * 3 / 8.0);
  EXPECT_DOUBLE_EQ(skew.expert_imbalance, 2 * 6 / 8.0);
  EXPECT_DOUBLE_EQ(skew.pair_imbalance, 2 * 9 / 5.0);
  EXPECT_DOUBLE_EQ(skew.padding_waste, 1 - 5 / 18.0);
  EXPECT_EQ(EncodeCounts(DecodeCounts(EncodeCounts(c), topology, 6)), EncodeCounts(c));
}

TEST(Bytes, NothingAtAll) {
  const Topology topology = MakeTopology(2, 1);
  const RowCounts nothing = CountRows({{}, 0, 2}, Placement::Linear(4, 2), topology);
  const RowSkew skew = MeasureSkew({nothing, nothing});
  EXPECT_EQ(skew.pair_imbalance, 1);
  EXPECT_EQ(skew.padding_waste, 0);
}

// The published expectations of distinct groups for uniform choices.
TEST(Bytes, ExpectedGroupsAgreeWithTheTable) {
  const double of_256_8[] = {1.993, 3.614, 5.295, 6.523, 7.267, 7.676};
  for (int i = 0; i < 6; ++i) EXPECT_NEAR(ExpectedGroups(256, 8, 2 << i), of_256_8[i], 5e-4);
  EXPECT_NEAR(ExpectedGroups(384, 8, 16), 6.499, 5e-4);
  EXPECT_NEAR(ExpectedGroups(896, 16, 32), 12.829, 5e-4);
  EXPECT_EQ(ExpectedGroups(256, 8, 1), 1);
}

// Counted rows of uniform traffic against the algebra: a token's distinct groups lie in [1, 8], so that the mean over n
// tokens has a standard deviation of at most 3.5 / sqrt(n); five of them are allowed.
TEST(Bytes, BasesFollowTheAlgebra) {
  constexpr int kTokens = 512, kRanks = 16, kHosts = 4, kAll = kTokens * kRanks;
  const Topology topology = MakeTopology(kRanks, kHosts);
  const RowBases bases = SumBases(CountAll(kTokens, 256, 8, topology), topology);
  const double slack = 5 * 3.5 * std::sqrt(kAll);
  EXPECT_EQ(bases.selection, kAll * 8);
  EXPECT_NEAR(bases.rank, kAll * ExpectedGroups(256, 8, kRanks), slack);
  EXPECT_NEAR(bases.node, kAll * ExpectedGroups(256, 8, kHosts), slack);
  EXPECT_NEAR(bases.wire, kAll * 2.711, slack);  // E[D_N] (N - 1) / N for N = 4
}

TEST(Bytes, OneHostHasNoWire) {
  const Topology topology = MakeTopology(4, 1);
  const RowBases bases = SumBases(CountAll(64, 32, 4, topology), topology);
  EXPECT_EQ(bases.node, 256);
  EXPECT_EQ(bases.wire, 0);
}

TEST(Bytes, BandwidthsAreThoseOfNcclTests) {
  EXPECT_DOUBLE_EQ(Gbps(2e9, 0.5), 4);
  EXPECT_DOUBLE_EQ(BusBandwidth(4, 8), 3.5);
  EXPECT_EQ(BusBandwidth(4, 1), 0);
  EXPECT_EQ(Gbps(1, 0), 0);
}

}  // namespace
}  // namespace tokenferry

// The cost model: its formulas, what follows from them, and that ranks agree on what they measured.
#include "comm/tuning/cost_model.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <mutex>

#include "absl/time/clock.h"
#include "comm/tuning/exchange_choice.h"
#include "core/device/cpu_device.h"
#include "tests/comm/transport/hosted_transport.h"
#include "tests/comm/transport/rank_group.h"

namespace tokenferry {
namespace {

using testing::HasSubstr;

const Topology kFourHosts = Topology::FromHosts({"a", "a", "b", "b", "c", "c", "d", "d"});
const Topology kOneHost = Topology::FromHosts({"a", "a", "a", "a"});

LinkCosts Costs(double latency_us, double network_gb_per_s) {
  LinkCosts costs;
  costs.links[0] = {0, 0, 1e-4};
  costs.links[1] = {latency_us / 4, latency_us / 40, 2e-4};
  costs.links[2] = {latency_us, latency_us / 10, 1e-3 / network_gb_per_s};
  return costs;
}

TEST(CostModel, ExpectedPairsAreOnesOfASmallCount) {
  // 2 groups, 2 choices: one group with probability 1/2, else both.
  EXPECT_DOUBLE_EQ(ExpectedPairs({.tokens_per_rank = 10, .top_k = 2}, 2), 15);
  EXPECT_DOUBLE_EQ(ExpectedPairs({.tokens_per_rank = 10, .top_k = 3}, 1), 10);
  EXPECT_DOUBLE_EQ(ExpectedPairs({.tokens_per_rank = 0, .top_k = 3}, 4), 0);
}

TEST(CostModel, TrafficIsTheFormulas) {
  const ExchangeShape shape{.tokens_per_rank = 16, .top_k = 2, .hidden = 100, .row_element_bytes = 2};
  const double ranks = ExpectedPairs(shape, 8), hosts = ExpectedPairs(shape, 4);
  const PathTraffic flat = *InfoOf(ExchangePath::kAllToAllV).traffic(shape, kFourHosts);
  EXPECT_DOUBLE_EQ(flat.network_bytes, 0.75 * (ranks * 200 + 32 * 400));
  EXPECT_DOUBLE_EQ(flat.host_bytes, 0.125 * (ranks * 200 + 32 * 400));
  EXPECT_EQ(flat.num_transfers, 4);
  EXPECT_EQ(flat.num_messages, 4 * 6);
  const PathTraffic gather = *InfoOf(ExchangePath::kAllGather).traffic(shape, kFourHosts);
  EXPECT_NEAR(gather.network_bytes, 16 * 200 * 6 + 0.75 * 32 * 400, 1e-6);  // six of seven others are elsewhere
  EXPECT_EQ(gather.num_transfers, 10);
  const PathTraffic exact = *InfoOf(ExchangePath::kTwoLevel).traffic(shape, kFourHosts);
  EXPECT_DOUBLE_EQ(exact.network_bytes, 0.75 * (hosts * 200 + 32 * 400));
  ExchangeShape reduced = shape;
  reduced.reduction = Reduction::kNode;
  const PathTraffic node = *InfoOf(ExchangePath::kTwoLevel).traffic(reduced, kFourHosts);
  EXPECT_DOUBLE_EQ(node.network_bytes, 0.75 * (hosts * 200 + hosts * 400));
  const LinkCosts costs = Costs(100, 0.25);
  EXPECT_DOUBLE_EQ(PredictMicroseconds(node, costs, kFourHosts), 5 * 100 + node.num_messages * 10 +
                                                                     node.self_bytes * 1e-4 + node.host_bytes * 2e-4 +
                                                                     2 * node.network_bytes * 4e-3);
}

TEST(CostModel, ChoosesWhatTheSizeAsksFor) {
  const LinkCosts slow = Costs(50, 0.25);
  ExchangeShape shape{
      .tokens_per_rank = 512, .top_k = 8, .hidden = 7168, .row_element_bytes = 2, .reduction = Reduction::kNode};
  EXPECT_EQ(ChoosePath(shape, slow, kFourHosts).path(), ExchangePath::kTwoLevel);
  shape.tokens_per_rank = 1;
  shape.hidden = 64;
  EXPECT_NE(ChoosePath(shape, slow, kFourHosts).path(), ExchangePath::kTwoLevel);
  // On one host the only reason for two_level is gone.
  EXPECT_EQ(ChoosePath(shape, slow, kOneHost).predictions.size(), 3u);
  EXPECT_EQ(ChoosePath(shape, slow, kOneHost).path(), ExchangePath::kPeer);
  // Messages that cost much more than latency, and hardly any bytes: log2 R of them beat R - 1.
  LinkCosts messages = Costs(1, 10);
  messages.links[2].per_message_us = 100;
  EXPECT_EQ(ChoosePath(shape, messages, kFourHosts).path(), ExchangePath::kAllGather);
}

TEST(CostModel, ExplainsItsChoice) {
  const ExchangeShape shape{.tokens_per_rank = 512, .top_k = 8, .hidden = 7168, .row_element_bytes = 2};
  const LinkCosts costs = Costs(50, 0.25);
  const PathChoice choice = ChoosePath(shape, costs, kFourHosts);
  const std::string text = Explain(choice, shape, costs, kFourHosts);
  for (const char* words :
       {"8 ranks on 4 hosts", "network", "0.250 GB/s", "512 tokens", "alltoallv", "allgather", "two_level"}) {
    EXPECT_THAT(text, HasSubstr(words));
  }
  EXPECT_THAT(text, HasSubstr(absl::StrCat("path ", ExchangePathName(choice.path()), ": ")));
}

TEST(CostModel, AllRanksGetTheSameMeasurement) {
  for (const char* hosts : {"a", "aa", "ab", "aab", "abbb", "aabbc"}) {
    SCOPED_TRACE(hosts);
    std::mutex mutex;
    std::vector<std::string> seen;
    RunThreads(Backend::kCheckedLocal, static_cast<int>(std::string(hosts).size()), absl::Seconds(60),
               [&](Transport& t) {
                 HostedTransport hosted(t, hosts);
                 const Topology topology = Topology::Of(hosted);
                 const auto costs = MeasureLinks(hosted, topology);
                 ASSERT_TRUE(costs.ok()) << costs.status();
                 const auto kept = MeasureLinksOnce(hosted, topology), again = MeasureLinksOnce(hosted, topology);
                 ASSERT_TRUE(kept.ok() && again.ok()) << kept.status() << again.status();
                 EXPECT_EQ(kept->ToString(), again->ToString());
                 EXPECT_GT(costs->of(LinkClass::kSelf).us_per_byte, 0);
                 EXPECT_EQ(costs->of(LinkClass::kNetwork).latency_us > 0, topology.num_hosts() > 1);
                 EXPECT_EQ(costs->of(LinkClass::kHost).latency_us > 0, topology.num_hosts() < t.num_ranks());
                 std::lock_guard lock(mutex);
                 seen.push_back(costs->ToString());
               });
    for (const std::string& text : seen) EXPECT_EQ(text, seen[0]);
  }
}

TEST(CostModel, AutoTakesOnePathOnAllRanks) {
  std::mutex mutex;
  std::vector<ExchangePath> seen;
  RunThreads(Backend::kCheckedLocal, 4, absl::Seconds(60), [&](Transport& t) {
    HostedTransport hosted(t, "aabb");
    auto device = CreateCpuDevice({});
    const auto exchange = CreateExchange(hosted, *device, {.hidden = 64});
    ASSERT_TRUE(exchange.ok()) << exchange.status();
    std::lock_guard lock(mutex);
    seen.push_back((*exchange)->path());
  });
  ASSERT_EQ(seen.size(), 4u);
  for (ExchangePath path : seen) EXPECT_EQ(path, seen[0]);
  EXPECT_NE(seen[0], ExchangePath::kAuto);
}

}  // namespace
}  // namespace tokenferry

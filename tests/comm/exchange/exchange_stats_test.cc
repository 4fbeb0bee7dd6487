// What an exchange tells about itself: who waited for whom, bytes per link and basis, calls out of turn.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>
#include <thread>

#include "comm/transport/faulty_transport.h"
#include "comm/transport/local_transport.h"
#include "comm/tuning/exchange_choice.h"
#include "tests/comm/exchange/exchange_case.h"
#include "tests/comm/transport/hosted_transport.h"
#include "tests/comm/transport/rank_group.h"

namespace tokenferry {
namespace {

using testing::ContainsRegex;
using testing::HasSubstr;

const std::vector<ExchangePath> kPaths = AllPaths();

// A rank that is 100 ms late to one phase changes no bit, and the others have waited for it.
class LateRank : public testing::TestWithParam<std::tuple<ExchangePath, const char*>> {};

TEST_P(LateRank, IsTheOneThatOthersWaitFor) {
  constexpr int kRanks = 3, kLate = 1, kRounds = 2;
  constexpr absl::Duration kDelay = absl::Milliseconds(100);
  const auto [path, phase] = GetParam();
  const ExchangeCase c = RandomCase(11, 60, 9, 4, 33, DType::kBF16);
  const Placement placement = Placement::Linear(9, kRanks);
  auto group = CreateLocalGroup(kRanks, {.timeout = absl::Seconds(60)});
  FaultOptions faults;
  faults.delay_phase = phase;
  faults.delay = kDelay;
  group[kLate] = CreateFaultyTransport(std::move(group[kLate]), faults);
  std::vector<std::thread> threads;
  for (auto& transport : group) {
    threads.emplace_back([&, path = path] {
      HostedTransport hosted(*transport, "aab");
      RunExchangeCase(hosted, c, placement, {0, 20, 40, 60}, {.num_rounds = kRounds, .path = path});
    });
  }
  for (std::thread& thread : threads) thread.join();
  double for_late = 0;
  for (int r = 0; r < kRanks; ++r) {
    if (r != kLate) for_late += group[r]->wait_seconds_per_rank()[kLate];
  }
  // Two others, of whom one at least waits the whole time, unless a busy machine makes it late itself: so a quarter.
  EXPECT_GE(for_late, 0.25 * kRounds * absl::ToDoubleSeconds(kDelay));
}
INSTANTIATE_TEST_SUITE_P(Phases, LateRank,
                         testing::Combine(testing::ValuesIn(kPaths), testing::Values("plan counts", "plan selections",
                                                                                     "dispatch rows", "combine rows")));
INSTANTIATE_TEST_SUITE_P(TwoLevel, LateRank,
                         testing::Combine(testing::Values(ExchangePath::kTwoLevel),
                                          testing::Values("plan forwards", "forward rows", "combine inside")));

// What survivors say of an exchange that does not go on: who, where, how much, and when it was last heard of.
class StuckExchange : public testing::TestWithParam<std::tuple<ExchangePath, const char*>> {};

TEST_P(StuckExchange, TellsWhatIsMissingFromWhom) {
  const auto [path, phase] = GetParam();
  const std::vector<absl::Status> status = RunWithOneStuck(4, phase, [path = path](Transport& t) {
    HostedTransport hosted(t, "aabb");
    return RunOneCase(hosted, path);
  });
  int num_named = 0;
  for (int r : {0, 2, 3}) {
    if (status[r].ok()) continue;  // nothing of what rank 1 still had to do was for it
    EXPECT_EQ(status[r].code(), absl::StatusCode::kDeadlineExceeded) << status[r];
    num_named +=
        testing::Value(std::string(status[r].message()),
                       ContainsRegex(absl::StrCat(
                           "layer 2, ", phase, ", step 5, transfer [0-9]+: rank ", r,
                           " waits for .*rank 1 on host [^,]* [(]0 of [1-9][0-9]* (rows|outputs|headers|bytes).* "
                           "(last heard of in transfer [0-9]+|its last sign: [a-z ]+ of transfer 1), .* ago")));
  }
  EXPECT_GE(num_named, 1) << status[0] << "\n" << status[2] << "\n" << status[3];
}
INSTANTIATE_TEST_SUITE_P(Phases, StuckExchange,
                         testing::Combine(testing::Values(ExchangePath::kPeer, ExchangePath::kAllToAllV,
                                                          ExchangePath::kAllGather),
                                          testing::Values("dispatch rows", "combine rows")));
INSTANTIATE_TEST_SUITE_P(TwoLevel, StuckExchange,
                         testing::Combine(testing::Values(ExchangePath::kTwoLevel),
                                          testing::Values("plan selections", "dispatch rows", "forward rows",
                                                          "combine inside", "combine rows")));

TEST(CountBases, CountsWhatAPlainLoopCounts) {
  const ExchangeCase c = RandomCase(3, 80, 12, 5, 1, DType::kF32);
  for (const std::vector<std::string>& hosts :
       {std::vector<std::string>{"a"}, {"a", "b", "c", "d"}, {"a", "a", "b", "b"}, {"a", "b", "a", "c", "b"}}) {
    const Topology topology = Topology::FromHosts(hosts);
    const Placement placement = RandomPlacement(4, c.num_experts, topology.num_ranks());
    SendPlan plan;
    const absl::Status built = PlanBuilder().BuildSend({c.expert_idx, c.num_tokens(), c.top_k}, placement, plan);
    ASSERT_TRUE(built.ok()) << built;
    std::set<std::pair<int64_t, int>> ranks, nodes, wire;
    int64_t selections = 0;
    for (int64_t t = 0; t < c.num_tokens(); ++t) {
      for (int k = 0; k < c.top_k; ++k) {
        const int32_t expert = c.expert_idx[t * c.top_k + k];
        if (expert < 0) continue;
        const int rank = placement.Choose(ExpertId(expert), RankId(0), t).rank.value,
                  host = topology.host_idx_per_rank[rank];
        ++selections;
        ranks.insert({t, rank});
        nodes.insert({t, host});
        if (host != topology.host_idx_per_rank[0]) wire.insert({t, host});
      }
    }
    std::vector<int32_t> scratch;
    const RowBases expected{selections, static_cast<int64_t>(ranks.size()), static_cast<int64_t>(nodes.size()),
                            static_cast<int64_t>(wire.size())};
    EXPECT_EQ(CountBases(plan, topology, RankId(0), scratch), expected) << topology.ToString();
  }
}

TEST(BytesPerLink, TellsSelfHostAndNetworkApart) {
  const Topology topology = Topology::FromHosts({"a", "b", "a", "b"});
  EXPECT_EQ(BytesPerLink({1, 20, 300, 4000}, topology, RankId(2)), (LinkBytes{300, 1, 4020}));
}

// What leaves a rank is on some basis: flat paths send a row per (token, rank), two_level one per (token, host) over
// the network.
TEST(ExchangeStats, BytesSentAreThoseOfTheBasis) {
  for (const ExchangePath path : kPaths) {
    RunThreads(Backend::kLocal, 4, absl::Seconds(60), [&](Transport& local) {
      HostedTransport t(local, "aabb");
      const Topology topology = Topology::Of(t);
      auto device = CreateCpuDevice({});
      auto stream = *device->CreateStream();
      auto exchange = *CreateExchange(t, *device, {.hidden = 10, .wire_dtype = DType::kBF16, .path = path});
      const ExchangeCase c = RandomCase(5, 40, 8, 4, 10, DType::kBF16);
      auto experts = *device->Allocate(c.expert_idx.size() * 4, MemoryKind::kDevice, "experts");
      auto weights = *device->Allocate(c.weight.size() * 4, MemoryKind::kDevice, "weights");
      auto rows = *device->Allocate(c.rows.size() * 4, MemoryKind::kDevice, "rows");
      stream->CopyToDevice(experts.data(), c.expert_idx.data(), experts.num_bytes());
      stream->CopyToDevice(weights.data(), c.weight.data(), weights.num_bytes());
      stream->CopyToDevice(rows.data(), c.rows.data(), rows.num_bytes());
      const Routing routing{MakeMatrix<int32_t>(experts.data(), 40, 4), MakeMatrix<float>(weights.data(), 40, 4)};
      const auto hidden = MakeMatrix<float>(rows.data(), 40, 10);
      const CallSite site{"test", 1, 2};
      ASSERT_EQ(exchange->Plan(*stream, site, routing, Placement::Linear(8, 4)), absl::OkStatus());
      ASSERT_TRUE(exchange->Dispatch(*stream, site, hidden).ok());
      const auto out = exchange->ExpertOut();
      ASSERT_TRUE(out.ok());
      if (out->rows > 0) stream->Fill(out->data, 0, out->rows * 40);
      ASSERT_TRUE(exchange->Combine(*stream, site, routing.weight, hidden).ok());
      const ExchangeStats stats = *exchange->stats(*stream);
      EXPECT_EQ(stats.num_exchanges, 1);
      EXPECT_EQ(stats.row_bytes, 20);
      EXPECT_EQ(stats.output_bytes, 40);
      EXPECT_EQ(stats.bases.selection, stats.num_selections);
      const LinkBytes sent = BytesPerLink(stats.dispatch_bytes_per_rank, topology, t.rank());
      if (path == ExchangePath::kPeer || path == ExchangePath::kAllToAllV) {
        EXPECT_EQ(sent.self + sent.host + sent.network, stats.bases.rank * stats.row_bytes);
      }
      if (path == ExchangePath::kTwoLevel) {
        EXPECT_EQ(sent.network, stats.bases.wire * stats.row_bytes);
      }
    });
  }
}

TEST(ExchangeStats, ACallOutOfTurnIsNamed) {
  RunThreads(Backend::kLocal, 1, absl::Seconds(10), [](Transport& t) {
    auto device = CreateCpuDevice({});
    auto stream = *device->CreateStream();
    auto exchange = *CreateExchange(t, *device, {.hidden = 8, .path = ExchangePath::kAllToAllV});
    const Routing nothing{MakeMatrix<int32_t>(nullptr, 0, 2), MakeMatrix<float>(nullptr, 0, 2)};
    ASSERT_EQ(exchange->Plan(*stream, {"test", 3}, nothing, Placement::Linear(2, 1)), absl::OkStatus());
    const absl::Status status = exchange->Plan(*stream, {"test", 4}, nothing, Placement::Linear(2, 1));
    EXPECT_THAT(std::string(status.message()), HasSubstr("layer 4, test: exchange: Plan was called where Dispatch"));
  });
}

}  // namespace
}  // namespace tokenferry

// Every path of the exchange gives the dense reference's bits, on any number of ranks and hosts and in every device
// mode.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

#include "absl/strings/match.h"
#include "comm/exchange/allgather/allgather_exchange.h"
#include "comm/exchange/exchange.h"
#include "comm/exchange/two_level/two_level_exchange.h"
#include "comm/exchange/two_level/two_level_plan.h"
#include "tests/comm/exchange/exchange_case.h"
#include "tests/comm/transport/hosted_transport.h"
#include "tests/comm/transport/rank_group.h"

namespace tokenferry {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

CpuDeviceOptions FastDevice() { return {.num_threads = 1, .isa = BestIsa(SupportedIsas())}; }

// The ranks of each host, "aab": ranks 0 and 1 on a, rank 2 on b.
class ExchangePaths : public testing::TestWithParam<std::tuple<ExchangePath, Backend, const char*>> {
 protected:
  void Run(const std::function<void(Transport&, ExchangePath)>& body) {
    const auto [path, backend, hosts] = GetParam();
    const ExchangePath wanted = path;
    RunThreads(backend, static_cast<int>(std::string(hosts).size()), absl::Seconds(60), [&](Transport& t) {
      HostedTransport hosted(t, std::get<2>(GetParam()));
      body(hosted, wanted);
    });
  }
};

TEST_P(ExchangePaths, EqualTheDenseReference) {
  const uint32_t seed = std::random_device{}();
  SCOPED_TRACE(absl::StrCat("seed ", seed));
  Run([&](Transport& t, ExchangePath path) {
    RunRandomCases(t, seed, 20, {.device = FastDevice(), .num_rounds = 2, .formats = Formats::kAll, .path = path});
  });
}

TEST_P(ExchangePaths, NoTokensAnywhereAndMoreRanksThanExperts) {
  Run([&](Transport& t, ExchangePath path) {
    const ExchangeCase none = RandomCase(1, 0, 3, 2, 16, DType::kF32);
    const Placement placement = Placement::Linear(3, t.num_ranks());
    RunExchangeCase(t, none, placement, std::vector<int64_t>(t.num_ranks() + 1, 0), {.path = path});
    const ExchangeCase some = RandomCase(2, 50, 3, 2, 33, DType::kBF16);
    RunExchangeCase(t, some, placement, RandomTokenSplit(3, 50, t.num_ranks()), {.path = path});
  });
}

INSTANTIATE_TEST_SUITE_P(AllGather, ExchangePaths,
                         testing::Combine(testing::Values(ExchangePath::kAllGather),
                                          testing::Values(Backend::kLocal, Backend::kCheckedLocal,
                                                          Backend::kFaultyLocal),
                                          testing::Values("a", "aa", "aaa", "aaaa", "aaaaa", "aaaaaaaa")));

constexpr const char* kLayouts[] = {"a",   "aa",    "ab",      "aab",      "abb",     "aba",
                                    "abc", "aaabb", "abbcccc", "aabbccdd", "abcabcab"};
INSTANTIATE_TEST_SUITE_P(TwoLevel, ExchangePaths,
                         testing::Combine(testing::Values(ExchangePath::kTwoLevel),
                                          testing::Values(Backend::kLocal, Backend::kCheckedLocal,
                                                          Backend::kFaultyLocal),
                                          testing::ValuesIn(kLayouts)));

// Messages that are sent in parts, and tokens that can be summed as soon as theirs have come.
class LargeMessages : public testing::TestWithParam<std::tuple<Reduction, DType, const char*>> {};

TEST_P(LargeMessages, EqualTheReference) {
  const auto [reduction, output_dtype, layout] = GetParam();
  const std::string hosts = layout;
  const int num_ranks = static_cast<int>(hosts.size());
  RunThreads(Backend::kCheckedLocal, num_ranks, absl::Seconds(60), [&, r = reduction, o = output_dtype](Transport& t) {
    HostedTransport hosted(t, hosts);
    ExchangeCase c = RandomCase(5, 900, 9, 4, 700, DType::kBF16);
    c.output_dtype = o;
    const ExchangeRun run{.device = FastDevice(), .num_rounds = 2, .path = ExchangePath::kTwoLevel, .reduction = r};
    RunExchangeCase(hosted, c, RandomPlacement(7, 9, num_ranks), RandomTokenSplit(3, 900, num_ranks), run);
  });
}
INSTANTIATE_TEST_SUITE_P(Layouts, LargeMessages,
                         testing::Combine(testing::Values(Reduction::kExact, Reduction::kNode),
                                          testing::Values(DType::kF32, DType::kBF16),
                                          testing::Values("ab", "aabb", "abbccc")));

TEST(RowsOfPart, CoverEveryMessageOnceInOrder) {
  for (const int64_t row_bytes : {1, 1000, 500'000}) {
    for (const int64_t num_rows : {0, 1, 2, 7, 8, 9, 131, 400'000}) {
      for (const int num_parts : {1, 2, 7, 8}) {
        int64_t end = 0;
        for (int p = 0; p < num_parts; ++p) {
          const RowRange rows = RowsOfPart(num_rows, row_bytes, p, num_parts);
          EXPECT_EQ(rows.begin, end);
          EXPECT_LE(rows.begin, rows.end);
          end = rows.end;
        }
        EXPECT_EQ(end, num_rows);
      }
    }
  }
}

class NodeReduction : public testing::TestWithParam<const char*> {};

TEST_P(NodeReduction, EqualsTheReferenceOfTheLayout) {
  const uint32_t seed = std::random_device{}();
  SCOPED_TRACE(absl::StrCat("seed ", seed));
  const std::string hosts = GetParam();
  RunThreads(Backend::kCheckedLocal, static_cast<int>(hosts.size()), absl::Seconds(60), [&](Transport& t) {
    HostedTransport hosted(t, hosts);
    RunRandomCases(hosted, seed, 30,
                   {.device = FastDevice(),
                    .num_rounds = 2,
                    .formats = Formats::kAll,
                    .path = ExchangePath::kTwoLevel,
                    .reduction = Reduction::kNode});
  });
}
INSTANTIATE_TEST_SUITE_P(Layouts, NodeReduction, testing::ValuesIn(kLayouts));

class ExchangePathsOnDevice
    : public testing::TestWithParam<std::tuple<ExchangePath, CpuExecution, CpuMemory, KernelSet>> {};

TEST_P(ExchangePathsOnDevice, EqualTheDenseReference) {
  const uint32_t seed = std::random_device{}();
  SCOPED_TRACE(absl::StrCat("seed ", seed));
  CpuDeviceOptions device = FastDevice();
  const ExchangePath path = std::get<0>(GetParam());
  std::tie(std::ignore, device.execution, device.memory, device.kernels) = GetParam();
  RunThreads(Backend::kLocal, 3, absl::Seconds(60), [&](Transport& t) {
    HostedTransport hosted(t, "aba");
    RunRandomCases(hosted, seed, 12, {.device = device, .num_rounds = 3, .formats = Formats::kAll, .path = path});
  });
}

INSTANTIATE_TEST_SUITE_P(Modes, ExchangePathsOnDevice,
                         testing::Combine(testing::Values(ExchangePath::kAllGather, ExchangePath::kTwoLevel),
                                          testing::Values(CpuExecution::kEager, CpuExecution::kLazy),
                                          testing::Values(CpuMemory::kPlain, CpuMemory::kTrap),
                                          testing::Values(KernelSet::kFast, KernelSet::kReference)));

// Path two_level as GPUs take it, on CPU devices: each rank's memory is its own, and what it needs of others it pulls.
class TwoLevelOnDevices : public testing::TestWithParam<std::tuple<CpuExecution, Reduction, const char*>> {};

TEST_P(TwoLevelOnDevices, EqualTheReference) {
  const uint32_t seed = std::random_device{}();
  SCOPED_TRACE(absl::StrCat("seed ", seed));
  const auto [execution, reduction, layout] = GetParam();
  const std::string hosts = layout;
  CpuDeviceOptions device = FastDevice();
  device.execution = execution;
  RunThreads(Backend::kCheckedLocal, static_cast<int>(hosts.size()), absl::Seconds(60),
             [&, r = reduction](Transport& t) {
               HostedTransport hosted(t, hosts);
               RunRandomCases(hosted, seed, 8,
                              {.device = device,
                               .num_rounds = 2,
                               .formats = Formats::kAll,
                               .path = ExchangePath::kTwoLevel,
                               .reduction = r,
                               .max_tokens = kMostCaseTokens,
                               .max_top_k = kMostCaseTopK,
                               .make_path = [](const PathContext& context) {
                                 return CreateTwoLevelMover(context, TwoLevelRows::kDeviceMemory);
                               }});
             });
}
INSTANTIATE_TEST_SUITE_P(Layouts, TwoLevelOnDevices,
                         testing::Combine(testing::Values(CpuExecution::kEager, CpuExecution::kLazy),
                                          testing::Values(Reduction::kExact, Reduction::kNode),
                                          testing::Values("a", "aa", "abb", "aba", "aaabb", "abbcccc")));

TEST(TwoLevelOnDevices, HaveToKnowTheLargestExchange) {
  RunThreads(Backend::kLocal, 3, absl::Seconds(60), [](Transport& t) {
    const auto device = CreateCpuDevice(FastDevice());
    const auto kept_there = [](const PathContext& context) {
      return CreateTwoLevelMover(context, TwoLevelRows::kDeviceMemory);
    };
    ExchangeOptions options{.hidden = 8, .path = ExchangePath::kTwoLevel, .max_tokens = 3};
    const auto unknown = Exchange::Create(t, *device, options, kept_there);
    EXPECT_EQ(unknown.status().code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_THAT(std::string(unknown.status().message()), HasSubstr("path two_level on GPUs has to know the most"));
    options.max_top_k = 2;
    auto exchange = Exchange::Create(t, *device, options, kept_there);
    ASSERT_TRUE(exchange.ok()) << exchange.status();
    // Larger than what any rank has said.
    const auto stream = *device->CreateStream();
    std::vector<int32_t> experts(30, 0);
    const Routing routing{MakeMatrix<int32_t>(experts.data(), 30, 1), {}};
    const absl::Status status = (*exchange)->Plan(*stream, {"test", 2, 5}, routing, Placement::Linear(3, 3));
    EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("more than the 9 and 24 that path two_level was created for"));
  });
}

TEST(TwoLevelRoutes, ServersHaveTheSameLocalIndexModuloTheirHostsRanks) {
  const Topology topology = Topology::FromHosts({"a", "a", "a", "b", "b", "c"});
  const TwoLevelRoutes second = TwoLevelRoutes::Make(topology, RankId(1));
  EXPECT_THAT(second.server_per_host, ElementsAre(1, 4, 5));
  EXPECT_THAT(second.sources, ElementsAre(ElementsAre(3, 5, 0), ElementsAre(4, 1), ElementsAre(2)));
  const TwoLevelRoutes alone = TwoLevelRoutes::Make(topology, RankId(5));
  EXPECT_THAT(alone.server_per_host, ElementsAre(0, 3, 5));
  EXPECT_THAT(alone.my_sources(), ElementsAre(0, 1, 2, 3, 4, 5));
}

TEST(GatheredRecvPlan, PicksWhatThisRankServes) {
  const Placement placement = *Placement::FromTable(3, {{2}, {0, 1}});
  const std::vector<int32_t> first = {1, 2, -1, 0}, second = {0, 1};
  const GatheredRouting ranks[] = {{first, 2, 2, 1}, {second, 1, 2, 0}};
  RecvPlan plan;
  std::vector<int64_t> scratch;
  ASSERT_EQ(BuildGatheredRecvPlan(ranks, placement, RankId(1), scratch, plan), absl::OkStatus());
  EXPECT_THAT(plan.row_offsets, ElementsAre(0, 2, 3));
  EXPECT_THAT(plan.selection_offsets, ElementsAre(0, 2, 4));
  EXPECT_THAT(plan.slot_offsets, ElementsAre(0, 2, 4));
  EXPECT_THAT(plan.row_idx, ElementsAre(2, 0, 1, 0));  // expert 0: rank 0's token 1, rank 1's token 0; expert 1: ..
  EXPECT_THAT(plan.return_selection, ElementsAre(2, 0, 1, 3));
}

TEST(GatheredRecvPlan, NamesThePeerWhoseRoutingIsWrong) {
  const Placement placement = Placement::Linear(3, 2);
  const std::vector<int32_t> good = {1}, bad = {0, 7};
  const GatheredRouting ranks[] = {{good, 1, 1, 0}, {bad, 2, 1, 1}};
  RecvPlan plan;
  std::vector<int64_t> scratch;
  const absl::Status status = BuildGatheredRecvPlan(ranks, placement, RankId(0), scratch, plan);
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(status.message()), HasSubstr("rank 1: its token 1 goes to location 7"));
}

}  // namespace
}  // namespace tokenferry

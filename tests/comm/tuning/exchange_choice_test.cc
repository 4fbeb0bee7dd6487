// The automatic path by size: the same on every rank, and every size is served.
#include "comm/tuning/exchange_choice.h"

#include <gtest/gtest.h>

#include "comm/transport/collectives.h"
#include "core/device/cpu_device.h"
#include "tests/comm/exchange/exchange_case.h"
#include "tests/comm/transport/hosted_transport.h"
#include "tests/comm/transport/rank_group.h"

namespace tokenferry {
namespace {

constexpr int kNumExperts = 6, kNumChosen = 2;
constexpr int64_t kHidden = 16;

void RunOne(Exchange& exchange, Stream& stream, const Placement& placement, ExchangeCase& c) {
  const CallSite site{"choice"};
  const Routing routing{MakeMatrix<int32_t>(c.expert_idx.data(), c.num_tokens(), kNumChosen),
                        MakeMatrix<float>(c.weight.data(), c.num_tokens(), kNumChosen)};
  const auto rows = MakeMatrix<const float>(c.rows.data(), c.num_tokens(), kHidden);
  std::vector<float> out(c.rows.size());
  ASSERT_EQ(exchange.Plan(stream, site, routing, placement), absl::OkStatus());
  ASSERT_EQ(exchange.Dispatch(stream, site, rows).status(), absl::OkStatus());
  const auto expert_out = exchange.ExpertOut();
  ASSERT_TRUE(expert_out.ok()) << expert_out.status();
  if (expert_out->rows > 0) stream.Fill(expert_out->data, 0, expert_out->rows * kHidden * 4);
  const auto result = MakeMatrix<float>(out.data(), c.num_tokens(), kHidden);
  ASSERT_EQ(exchange.Combine(stream, site, routing.weight, result), absl::OkStatus());
}

class BySize : public testing::TestWithParam<const char*> {};

TEST_P(BySize, EverySizeIsServedByTheSamePathOnAllRanks) {
  const std::string hosts = GetParam();
  RunThreads(Backend::kCheckedLocal, static_cast<int>(hosts.size()), absl::Seconds(60), [&](Transport& t) {
    HostedTransport hosted(t, hosts);
    auto device = CreateCpuDevice({.num_threads = 1});
    auto stream = *device->CreateStream();
    constexpr int64_t kMaxTokens = 1000;
    std::string told;
    auto made = ExchangeBySize::Create(hosted, *device,
                                       {.hidden = kHidden,
                                        .on_choice = [&](const std::string& why) { told += why; },
                                        .max_tokens = kMaxTokens,
                                        .max_top_k = kNumChosen});
    ASSERT_TRUE(made.ok()) << made.status();
    const auto all = AllGather(hosted, {"paths"}, made->ToString());
    ASSERT_TRUE(all.ok()) << all.status();
    for (const std::string& theirs : *all) EXPECT_EQ(theirs, made->ToString());
    if (t.rank() == RankId(0)) {
      EXPECT_NE(told.find(absl::StrCat("for ", kMaxTokens, " tokens per rank")), std::string::npos) << told;
    }
    const Placement placement = Placement::Linear(kNumExperts, t.num_ranks());
    ExchangeCase c = RandomCase(7 + t.rank().value, 3, kNumExperts, kNumChosen, kHidden, DType::kF32);
    int64_t num_exchanges = 0;
    for (const int64_t size : {0, 1, 3, 64, 999, 1000, 5000}) {
      Exchange& exchange = made->For(size);
      EXPECT_NE(made->ToString().find(ExchangePathName(exchange.path())), std::string::npos);
      RunOne(exchange, *stream, placement, c);
      ++num_exchanges;
    }
    EXPECT_EQ(made->stats(*stream)->num_exchanges, num_exchanges);
    EXPECT_EQ(&made->For(5000), &made->For(kMaxTokens));
  });
}
INSTANTIATE_TEST_SUITE_P(Hosts, BySize, testing::Values("a", "aaa", "ab", "aabb", "abbccc"));

TEST(BySize, AGivenPathIsTheOnlyOne) {
  RunThreads(Backend::kLocal, 2, absl::Seconds(60), [&](Transport& t) {
    HostedTransport hosted(t, "ab");
    auto device = CreateCpuDevice({.num_threads = 1});
    auto made = ExchangeBySize::Create(hosted, *device,
                                       {.hidden = kHidden, .path = ExchangePath::kAllGather, .max_tokens = 100});
    ASSERT_TRUE(made.ok()) << made.status();
    EXPECT_EQ(made->ToString(), "allgather");
    EXPECT_EQ(&made->For(1), &made->For(100));
  });
}

}  // namespace
}  // namespace tokenferry

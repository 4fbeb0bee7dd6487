// The memory of exchanges: within MostExchangeBytes, wherever the router sends the tokens.
#include "comm/tuning/exchange_budget.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

#include "comm/exchange/path/paths.h"
#include "comm/exchange/peer/device_peer_exchange.h"
#include "comm/exchange/two_level/two_level_exchange.h"
#include "comm/transport/collectives.h"
#include "comm/tuning/exchange_choice.h"
#include "core/device/cpu_device.h"
#include "tests/comm/exchange/exchange_case.h"
#include "tests/comm/transport/hosted_transport.h"
#include "tests/comm/transport/rank_group.h"

namespace tokenferry {
namespace {

using testing::HasSubstr;

constexpr int kRanks = 4, kExperts = 10, kTopK = 3;
constexpr int64_t kControlBytes = 4096;  // flags, headers and tables are less

struct BudgetCase {
  ExchangePath path;
  DType wire_dtype, expert_dtype, output_dtype;
  Reduction reduction = Reduction::kExact;
  const char* hosts = "aaaa";
  DeviceKind as_on = DeviceKind::kCpu;  // kCuda, path two_level: rows lie where they do on GPUs
};

class ExchangeBudget : public testing::TestWithParam<BudgetCase> {
 protected:
  ExchangeOptions Options(int64_t max_tokens) const {
    return {.hidden = 200,
            .wire_dtype = GetParam().wire_dtype,
            .expert_dtype = GetParam().expert_dtype,
            .output_dtype = GetParam().output_dtype,
            .path = GetParam().path,
            .reduction = GetParam().reduction,
            .max_tokens = max_tokens,
            .max_top_k = kTopK};
  }
};

// One exchange of `num_tokens` tokens per rank, experts from `pick`; data does not matter.
absl::Status ExchangeOnce(Exchange& exchange, Device& inputs, const Placement& placement, int64_t num_tokens,
                          const ExchangeOptions& options, const std::function<int32_t(int64_t, int)>& pick) {
  TF_ASSIGN_OR_RETURN(auto stream, inputs.CreateStream());
  TF_ASSIGN_OR_RETURN(Buffer experts, inputs.Allocate(num_tokens * kTopK * 4, MemoryKind::kDevice, "experts"));
  TF_ASSIGN_OR_RETURN(Buffer weights, inputs.Allocate(num_tokens * kTopK * 4, MemoryKind::kDevice, "weights"));
  TF_ASSIGN_OR_RETURN(Buffer rows, inputs.Allocate(num_tokens * options.hidden * 4, MemoryKind::kDevice, "rows"));
  TF_ASSIGN_OR_RETURN(Buffer sums, inputs.Allocate(num_tokens * options.hidden * 4, MemoryKind::kDevice, "sums"));
  std::vector<int32_t> expert_idx;
  for (int64_t t = 0; t < num_tokens; ++t) {
    for (int k = 0; k < kTopK; ++k) expert_idx.push_back(pick(t, k));
  }
  stream->CopyToDevice(experts.data(), expert_idx.data(), expert_idx.size() * 4);
  stream->Fill(weights.data(), 0, weights.num_bytes());
  stream->Fill(rows.data(), 0, rows.num_bytes());
  const Routing routing{MakeMatrix<int32_t>(experts.data(), num_tokens, kTopK),
                        MakeMatrix<float>(weights.data(), num_tokens, kTopK)};
  TF_ASSIGN_OR_RETURN(const FloatMatrix home, exchange.HomeRows(num_tokens));
  static_cast<void>(home);
  TF_RETURN_IF_ERROR(exchange.Plan(*stream, {"plan"}, routing, placement));
  const auto x = MakeMatrix<const float>(rows.data(), num_tokens, options.hidden);
  TF_RETURN_IF_ERROR(exchange.Dispatch(*stream, {"dispatch"}, x).status());
  TF_ASSIGN_OR_RETURN(const FloatMatrix out, exchange.ExpertOut());
  if (out.rows > 0) stream->Fill(out.data, 0, out.rows * options.hidden * DTypeBytes(out.dtype));
  TF_RETURN_IF_ERROR(exchange.Combine(*stream, {"combine"}, routing.weight,
                                      MakeMatrix<float>(sums.data(), num_tokens, options.hidden)));
  return stream->Synchronize();
}

TEST_P(ExchangeBudget, HoldsWhereverTokensGo) {
  for (const int64_t max_tokens : {1, 7, 60}) {
    RunThreads(Backend::kLocal, kRanks, absl::Seconds(30), [&](Transport& local) {
      HostedTransport transport(local, GetParam().hosts);
      const Placement placement = Placement::Linear(kExperts, kRanks);
      const auto device = CreateCpuDevice({}), inputs = CreateCpuDevice({});
      const ExchangeOptions options = Options(max_tokens);
      const auto kept_there = [](const PathContext& context) {
        return CreateTwoLevelMover(context, TwoLevelRows::kDeviceMemory);
      };
      auto exchange = GetParam().as_on == DeviceKind::kCpu ? CreateExchange(transport, *device, options)
                                                           : Exchange::Create(transport, *device, options, kept_there);
      ASSERT_TRUE(exchange.ok()) << exchange.status();
      auto stream = *device->CreateStream();
      const auto held = [&] {
        return static_cast<int64_t>(device->peak_allocated_bytes()) + (*exchange)->stats(*stream)->peak_peer_bytes;
      };
      const ExchangeMemory memory = MemoryOfExchange(options, placement, Topology::Of(transport), GetParam().as_on);
      EXPECT_LE(memory.at_start, held());
      EXPECT_GE(memory.at_start, held() - kControlBytes);
      std::mt19937 random(5);
      const auto anywhere = [&](int64_t, int k) {
        return static_cast<int32_t>((random() % (kExperts / kTopK)) * kTopK + k);
      };
      const auto to_rank_0 = [&](int64_t, int k) { return k; };
      for (const int64_t tokens : {max_tokens / 4, max_tokens / 2, max_tokens - 1, max_tokens}) {
        ASSERT_EQ(ExchangeOnce(**exchange, *inputs, placement, tokens, options, anywhere), absl::OkStatus());
        ASSERT_EQ(ExchangeOnce(**exchange, *inputs, placement, tokens, options, to_rank_0), absl::OkStatus());
      }
      const auto most = MostExchangeBytes(options, placement, max_tokens, GetParam().as_on);
      ASSERT_TRUE(most.ok());
      EXPECT_EQ(memory.most, *most);
      EXPECT_LE(held(), *most) << max_tokens << " tokens";
      // The bound is of use: the busiest rank comes near to it.
      if (transport.rank().value == 0 && max_tokens == 60) {
        EXPECT_GE(held(), *most / 3);
      }
    });
  }
}

INSTANTIATE_TEST_SUITE_P(
    Paths, ExchangeBudget,
    testing::Values(
        BudgetCase{ExchangePath::kPeer, DType::kF32, DType::kF32, DType::kF32},
        BudgetCase{ExchangePath::kPeer, DType::kF8E4M3, DType::kBF16, DType::kBF16},
        BudgetCase{ExchangePath::kAllToAllV, DType::kBF16, DType::kBF16, DType::kF32},
        BudgetCase{ExchangePath::kAllToAllV, DType::kI8, DType::kF32, DType::kBF16},
        BudgetCase{ExchangePath::kAllGather, DType::kF32, DType::kF32, DType::kF32},
        BudgetCase{ExchangePath::kAllGather, DType::kBF16, DType::kBF16, DType::kBF16},
        BudgetCase{ExchangePath::kTwoLevel, DType::kF32, DType::kF32, DType::kF32, Reduction::kExact, "abbb"},
        BudgetCase{ExchangePath::kTwoLevel, DType::kF8E4M3, DType::kBF16, DType::kBF16, Reduction::kExact, "aabb"},
        BudgetCase{ExchangePath::kTwoLevel, DType::kBF16, DType::kBF16, DType::kF32, Reduction::kNode, "abbb"},
        BudgetCase{ExchangePath::kTwoLevel, DType::kI8, DType::kF32, DType::kBF16, Reduction::kNode, "abcd"},
        BudgetCase{ExchangePath::kTwoLevel, DType::kF8E4M3, DType::kBF16, DType::kF32, Reduction::kExact, "abbb",
                   DeviceKind::kCuda},
        BudgetCase{ExchangePath::kTwoLevel, DType::kF32, DType::kF32, DType::kBF16, Reduction::kNode, "abcc",
                   DeviceKind::kCuda}));

// Path peer as GPUs take it allocates at its start, and tables with the first placement.
TEST(DevicePeerBudget, IsWhatIsAllocated) {
  const Placement placement = Placement::Linear(kExperts, kRanks);
  for (const DType wire_dtype : {DType::kF32, DType::kBF16, DType::kF8E4M3}) {
    for (const int64_t max_tokens : {1, 7, 2000}) {
      const ExchangeOptions options{.hidden = 200,
                                    .wire_dtype = wire_dtype,
                                    .path = ExchangePath::kPeer,
                                    .max_tokens = max_tokens,
                                    .max_top_k = kTopK};
      const int64_t most =
          InfoOf(ExchangePath::kPeer).most_bytes(WorstCase(options, placement, max_tokens, DeviceKind::kCuda));
      RunThreads(Backend::kLocal, kRanks, absl::Seconds(30), [&](Transport& transport) {
        const auto device = CreateCpuDevice({}), inputs = CreateCpuDevice({});
        const auto exchange = Exchange::Create(transport, *device, options, CreateDevicePeerMover);
        ASSERT_TRUE(exchange.ok()) << exchange.status();
        const auto first_experts = [](int64_t, int k) { return k; };
        ASSERT_EQ(ExchangeOnce(**exchange, *inputs, placement, max_tokens, options, first_experts), absl::OkStatus());
        const auto held = static_cast<int64_t>(device->peak_allocated_bytes());
        EXPECT_LE(held, most) << DTypeName(wire_dtype) << ", " << max_tokens << " tokens";
        EXPECT_GE(held, most - kControlBytes) << DTypeName(wire_dtype) << ", " << max_tokens << " tokens";
        EXPECT_EQ(Barrier(transport, {"end"}), absl::OkStatus());  // others may still read this rank's outputs
      });
    }
  }
}

TEST(ExchangeMemory, OfTheAutomaticPathIsThatOfWhatItTakes) {
  const Placement placement = Placement::Linear(kExperts, kRanks);
  const auto memory = [&](ExchangePath path, const Topology& topology, DeviceKind device) {
    const ExchangeOptions options{.hidden = 64, .path = path, .max_tokens = 100, .max_top_k = kTopK};
    const ExchangeMemory of = MemoryOfExchange(options, placement, topology, device);
    return std::pair(of.at_start, of.most);
  };
  const Topology one = Topology::FromHosts({"a", "a", "a", "a"}), two = Topology::FromHosts({"a", "a", "b", "b"});
  for (const DeviceKind device : {DeviceKind::kCpu, DeviceKind::kCuda}) {
    EXPECT_EQ(memory(ExchangePath::kAuto, one, device), memory(ExchangePath::kPeer, one, device));
  }
  // On GPUs everything is there from the start.
  const auto [start, most] = memory(ExchangePath::kPeer, one, DeviceKind::kCuda);
  EXPECT_EQ(start, most);
  EXPECT_EQ(memory(ExchangePath::kAuto, two, DeviceKind::kCuda),
            memory(ExchangePath::kAllToAllV, two, DeviceKind::kCuda));
  const auto several = memory(ExchangePath::kAuto, two, DeviceKind::kCpu);
  EXPECT_EQ(several.first, 0);
  int64_t sum = 0;
  for (const ExchangePath path : {ExchangePath::kAllToAllV, ExchangePath::kAllGather, ExchangePath::kTwoLevel}) {
    sum += memory(path, two, DeviceKind::kCpu).second;
  }
  EXPECT_EQ(several.second, sum);
}

TEST(TokensWithin, FindsTheLargestThatFits) {
  const Placement placement = Placement::Linear(kExperts, kRanks);
  ExchangeOptions options{.hidden = 64, .path = ExchangePath::kAuto, .max_tokens = 100, .max_top_k = kTopK};
  for (const int64_t tokens : {1, 2, 50, 99, 100}) {
    const int64_t bytes = *MostExchangeBytes(options, placement, tokens);
    EXPECT_EQ(*TokensWithin(bytes, options, placement), tokens);
    EXPECT_EQ(*TokensWithin(bytes + 1, options, placement), tokens);
  }
  EXPECT_EQ(*TokensWithin(int64_t{1} << 50, options, placement), 100);
  const int64_t least = *MostExchangeBytes(options, placement, 1);
  const auto refused = TokensWithin(least - 1, options, placement);
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(refused.status().message()), HasSubstr(absl::StrCat(least)));
}

}  // namespace
}  // namespace tokenferry

// Dispatch and combine with ranks as threads: every rank count, placement, device mode and kernel gives the same bits.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <mutex>
#include <random>

#include "comm/exchange.h"
#include "comm/exchange_ops.h"
#include "comm/faulty_transport.h"
#include "core/kernels/gather_rows.h"
#include "tests/comm/exchange_case.h"
#include "tests/comm/rank_group.h"

namespace tokenferry {
namespace {

using testing::AllOf;
using testing::HasSubstr;

CpuDeviceOptions FastDevice() { return {.num_threads = 2, .isa = BestIsa(SupportedIsas())}; }

class ExchangeOnRanks : public testing::TestWithParam<std::tuple<Backend, int>> {};

TEST_P(ExchangeOnRanks, EqualsTheDenseReference) {
  const auto [backend, num_ranks] = GetParam();
  const uint32_t seed = std::random_device{}();
  SCOPED_TRACE(absl::StrCat("seed ", seed));
  RunThreads(backend, num_ranks, absl::Seconds(60),
             [&](Transport& t) { RunRandomCases(t, seed, 25, {.device = FastDevice(), .num_rounds = 2}); });
}

TEST_P(ExchangeOnRanks, NoTokensAnywhereAndMoreRanksThanExperts) {
  const auto [backend, num_ranks] = GetParam();
  RunThreads(backend, num_ranks, absl::Seconds(60), [&](Transport& t) {
    const ExchangeCase none = RandomCase(1, 0, 3, 2, 16, DType::kF32);
    RunExchangeCase(t, none, Placement::Linear(3, t.num_ranks()), std::vector<int64_t>(t.num_ranks() + 1, 0), {});
    const ExchangeCase some = RandomCase(2, 50, 3, 2, 33, DType::kBF16);
    RunExchangeCase(t, some, Placement::Linear(3, t.num_ranks()), RandomTokenSplit(3, 50, t.num_ranks()), {});
  });
}

INSTANTIATE_TEST_SUITE_P(
    Threads, ExchangeOnRanks,
    testing::Combine(testing::Values(Backend::kLocal, Backend::kCheckedLocal, Backend::kFaultyLocal),
                     testing::Values(1, 2, 3, 4, 5, 8)),
    [](const auto& info) { return absl::StrCat(BackendName(std::get<0>(info.param)), "_", std::get<1>(info.param)); });

class ExchangeOnDevice : public testing::TestWithParam<std::tuple<CpuExecution, CpuMemory, KernelSet>> {};

TEST_P(ExchangeOnDevice, EqualsTheDenseReference) {
  const uint32_t seed = std::random_device{}();
  SCOPED_TRACE(absl::StrCat("seed ", seed));
  CpuDeviceOptions device = FastDevice();
  std::tie(device.execution, device.memory, device.kernels) = GetParam();
  RunThreads(Backend::kLocal, 3, absl::Seconds(60),
             [&](Transport& t) { RunRandomCases(t, seed, 15, {.device = device, .num_rounds = 3}); });
}

INSTANTIATE_TEST_SUITE_P(Modes, ExchangeOnDevice,
                         testing::Combine(testing::Values(CpuExecution::kEager, CpuExecution::kLazy),
                                          testing::Values(CpuMemory::kPlain, CpuMemory::kTrap),
                                          testing::Values(KernelSet::kFast, KernelSet::kReference)));

template <class Args>
void RunOn(Isa isa, const Op<Args>& op, const Args& args) {
  ThreadPool pool(3);
  CpuContext context{pool, isa};
  op.cpu(args, context);
}

TEST(ExchangeOps, FastKernelsEqualTheReference) {
  std::mt19937 random(20);
  std::uniform_real_distribution<float> uniform(-3.0f, 3.0f);
  for (int64_t hidden : {1, 7, 8, 63, 64, 200, 1031}) {
    for (int64_t num_rows : {0, 1, 2, 77}) {
      std::vector<float> src((num_rows + 1) * hidden), weight(num_rows * 4);
      for (float& x : src) x = std::ldexp(uniform(random), static_cast<int>(random() % 20) - 10);
      for (float& x : weight) x = uniform(random);
      std::vector<int32_t> idx, selection, k;
      std::vector<int64_t> offsets = {0};
      for (int64_t i = 0; i < num_rows; ++i) {
        idx.push_back(static_cast<int32_t>(random() % (num_rows + 1)));
        for (uint32_t n = random() % 5; n > 0; --n) {
          selection.push_back(static_cast<int32_t>(random() % (num_rows + 1)));
          k.push_back(static_cast<int32_t>(random() % 4));
        }
        offsets.push_back(static_cast<int64_t>(k.size()));
      }
      const MatrixView<const float> rows{src.data(), num_rows + 1, hidden, hidden};
      const int64_t n = num_rows * hidden;
      std::vector<float> a(n + 1), b(n + 1);
      for (DType dtype : {DType::kF32, DType::kBF16}) {
        GatherRowsArgs gather{rows, idx.data(), num_rows, a.data(), dtype};
        kGatherRows.reference(gather);
        gather.out = b.data();
        RunOn(BestIsa(SupportedIsas()), kGatherRows, gather);
        EXPECT_EQ(std::memcmp(a.data(), b.data(), n * DTypeBytes(dtype)), 0);
      }
      CombineRowsArgs combine{rows,
                              offsets.data(),
                              selection.data(),
                              k.data(),
                              {weight.data(), num_rows, 4, 4},
                              {a.data(), num_rows, hidden, hidden}};
      kCombineRows.reference(combine);
      for (int isa = 0; isa < 32; ++isa) {
        if (!(SupportedIsas() >> isa & 1)) continue;
        std::fill(b.begin(), b.end(), 9.0f);
        combine.out.data = b.data();
        RunOn(static_cast<Isa>(isa), kCombineRows, combine);
        EXPECT_EQ(std::memcmp(a.data(), b.data(), n * sizeof(float)), 0) << "isa " << isa << " hidden " << hidden;
        EXPECT_EQ(b[n], 9.0f);
      }
    }
  }
}

// Each rank's error of one Plan in which ranks differ by what `change` does.
struct PlanInputs {
  ExchangeOptions options{.hidden = 8};
  Placement placement = Placement::Linear(4, 3);
  std::vector<int32_t> experts = {0, 1, 2, 3};  // 2 tokens, top-2
};
std::vector<absl::Status> PlanWith(const std::function<void(int rank, PlanInputs&)>& change) {
  std::vector<absl::Status> out(3);
  RunThreads(Backend::kLocal, 3, absl::Seconds(10), [&](Transport& t) {
    PlanInputs in;
    change(t.rank().value, in);
    auto device = CreateCpuDevice({});
    auto stream = *device->CreateStream();
    auto exchange = *CreateExchange(t, *device, in.options);
    auto buffer = *device->Allocate(in.experts.size() * 4, MemoryKind::kDevice, "experts");
    stream->CopyToDevice(buffer.data(), in.experts.data(), in.experts.size() * 4);
    const Routing routing{MakeMatrix<int32_t>(buffer.data(), 2, 2), {}};
    out[t.rank().value] = exchange->Plan(*stream, {"test", 6}, routing, in.placement).status();
    EXPECT_EQ(exchange->Plan(*stream, {"test", 7}, routing, in.placement).status(), out[t.rank().value]);  // sticks
  });
  return out;
}

TEST(Exchange, NamesRanksThatDisagree) {
  const auto hidden = PlanWith([](int r, PlanInputs& in) { in.options.hidden = r == 1 ? 16 : 8; });
  const auto dtype =
      PlanWith([](int r, PlanInputs& in) { in.options.row_dtype = r == 2 ? DType::kBF16 : DType::kF32; });
  const auto placement = PlanWith([](int r, PlanInputs& in) {
    if (r == 0) in.placement = *Placement::FromTable(4, {{0}, {1, 2}, {3}});
  });
  for (int r = 0; r < 3; ++r) {
    EXPECT_THAT(std::string(hidden[r].message()),
                AllOf(HasSubstr("layer 6, plan counts"), HasSubstr("hidden size"), HasSubstr("rank 1 has 16")));
    EXPECT_THAT(std::string(dtype[r].message()), AllOf(HasSubstr("row dtype"), HasSubstr("rank 2 has")));
    EXPECT_THAT(std::string(placement[r].message()), AllOf(HasSubstr("placement"), HasSubstr("rank 0 has")));
  }
}

TEST(Exchange, ARankWithABadRoutingEndsAllOfThem) {
  const auto status = PlanWith([](int r, PlanInputs& in) {
    if (r == 1) in.experts[2] = 99;
  });
  EXPECT_THAT(std::string(status[1].message()), AllOf(HasSubstr("rank 1"), HasSubstr("token 1 selects expert 99")));
  for (int r : {0, 2}) EXPECT_THAT(std::string(status[r].message()), HasSubstr("rank 1 could not plan"));
}

TEST(Exchange, RefusesOptionsThatCannotWork) {
  RunThreads(Backend::kLocal, 1, absl::Seconds(10), [](Transport& t) {
    auto device = CreateCpuDevice({});
    EXPECT_FALSE(CreateExchange(t, *device, {.hidden = 0}).ok());
    EXPECT_FALSE(CreateExchange(t, *device, {.hidden = 8, .row_dtype = DType::kI32}).ok());
  });
}

}  // namespace
}  // namespace tokenferry

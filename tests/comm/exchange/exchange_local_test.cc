// Dispatch and combine with ranks as threads: every rank count, placement, device mode and kernel gives the same bits.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <mutex>
#include <random>
#include <thread>

#include "comm/ops/exchange_ops.h"
#include "comm/transport/faulty_transport.h"
#include "comm/transport/local_transport.h"
#include "comm/tuning/exchange_choice.h"
#include "core/kernels/gather_rows.h"
#include "tests/comm/exchange/exchange_case.h"
#include "tests/comm/transport/hosted_transport.h"
#include "tests/comm/transport/rank_group.h"

namespace tokenferry {
namespace {

using testing::AllOf;
using testing::HasSubstr;

CpuDeviceOptions FastDevice() { return {.num_threads = 2, .isa = BestIsa(SupportedIsas())}; }

const std::vector<ExchangePath> kAllPaths = AllPaths();
constexpr ExchangePath kPaths[] = {ExchangePath::kAllToAllV, ExchangePath::kPeer};

class ExchangeOnRanks : public testing::TestWithParam<std::tuple<Backend, int, ExchangePath>> {};

TEST_P(ExchangeOnRanks, EqualsTheDenseReference) {
  const auto [backend, num_ranks, path] = GetParam();
  const uint32_t seed = std::random_device{}();
  SCOPED_TRACE(absl::StrCat("seed ", seed));
  RunThreads(backend, num_ranks, absl::Seconds(60), [&, path = path](Transport& t) {
    RunRandomCases(t, seed, 15, {.device = FastDevice(), .num_rounds = 2, .path = path});
  });
}

TEST_P(ExchangeOnRanks, EqualsTheDenseReferenceWhileShapesAndDataChange) {
  const auto [backend, num_ranks, path] = GetParam();
  const uint32_t seed = std::random_device{}();
  SCOPED_TRACE(absl::StrCat("seed ", seed));
  RunThreads(backend, num_ranks, absl::Seconds(60),
             [&, path = path](Transport& t) { RunChangingCases(t, seed, 15, {.device = FastDevice(), .path = path}); });
}

TEST_P(ExchangeOnRanks, NoTokensAnywhereAndMoreRanksThanExperts) {
  const auto [backend, num_ranks, path] = GetParam();
  RunThreads(backend, num_ranks, absl::Seconds(60), [&, path = path](Transport& t) {
    const ExchangeCase none = RandomCase(1, 0, 3, 2, 16, DType::kF32);
    RunExchangeCase(t, none, Placement::Linear(3, t.num_ranks()), std::vector<int64_t>(t.num_ranks() + 1, 0),
                    {.path = path});
    const ExchangeCase some = RandomCase(2, 50, 3, 2, 33, DType::kBF16);
    RunExchangeCase(t, some, Placement::Linear(3, t.num_ranks()), RandomTokenSplit(3, 50, t.num_ranks()),
                    {.path = path});
  });
}

INSTANTIATE_TEST_SUITE_P(Threads, ExchangeOnRanks,
                         testing::Combine(testing::Values(Backend::kLocal, Backend::kCheckedLocal,
                                                          Backend::kFaultyLocal),
                                          testing::Values(1, 2, 3, 4, 5, 8), testing::ValuesIn(kPaths)),
                         [](const auto& info) {
                           return absl::StrCat(BackendName(std::get<0>(info.param)), "_", std::get<1>(info.param), "_",
                                               ExchangePathName(std::get<2>(info.param)));
                         });

// Ranks that are early and late by turns, in every phase: memory that others still read must not be written again.
TEST(PeerExchange, RandomSkews) {
  const uint32_t seed = std::random_device{}();
  SCOPED_TRACE(absl::StrCat("seed ", seed));
  for (const CpuExecution execution : {CpuExecution::kEager, CpuExecution::kLazy}) {
    auto group = CreateLocalGroup(4, {.timeout = absl::Seconds(60)});
    std::vector<std::thread> threads;
    for (auto& local : group) {
      FaultOptions faults;
      faults.max_skew = absl::Milliseconds(2);
      faults.skew_seed = seed;
      local = CreateFaultyTransport(std::move(local), faults);
      threads.emplace_back([&local, seed, execution] {
        CpuDeviceOptions device;
        device.execution = execution;
        RunChangingCases(*local, seed, 80, {.device = device, .path = ExchangePath::kPeer});
      });
    }
    for (std::thread& thread : threads) thread.join();
  }
}

class ExchangeOnDevice : public testing::TestWithParam<std::tuple<CpuExecution, CpuMemory, KernelSet, ExchangePath>> {};

TEST_P(ExchangeOnDevice, EqualsTheDenseReference) {
  const uint32_t seed = std::random_device{}();
  SCOPED_TRACE(absl::StrCat("seed ", seed));
  CpuDeviceOptions device = FastDevice();
  ExchangePath path;
  std::tie(device.execution, device.memory, device.kernels, path) = GetParam();
  RunThreads(Backend::kLocal, 3, absl::Seconds(60), [&](Transport& t) {
    RunRandomCases(t, seed, 10, {.device = device, .num_rounds = 3, .path = path});
    RunChangingCases(t, seed, 10, {.device = device, .path = path});
  });
}

INSTANTIATE_TEST_SUITE_P(Modes, ExchangeOnDevice,
                         testing::Combine(testing::Values(CpuExecution::kEager, CpuExecution::kLazy),
                                          testing::Values(CpuMemory::kPlain, CpuMemory::kTrap),
                                          testing::Values(KernelSet::kFast, KernelSet::kReference),
                                          testing::ValuesIn(kPaths)));

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
      std::vector<BF16> narrow(src.size());
      for (size_t i = 0; i < src.size(); ++i) narrow[i] = ToBF16(src[i]);
      const MatrixView<const BF16> narrow_rows{narrow.data(), num_rows + 1, hidden, hidden};
      for (const ConstFloatMatrix from : {ConstFloatMatrix(rows), ConstFloatMatrix(narrow_rows)}) {
        CombineRowsArgs combine{from,
                                offsets.data(),
                                selection.data(),
                                k.data(),
                                {weight.data(), num_rows, 4, 4},
                                MakeMatrix<float>(a.data(), num_rows, hidden)};
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
}

// Each rank's error of one Plan in which ranks differ by what `change` does.
struct PlanInputs {
  ExchangeOptions options{.hidden = 8};
  Placement placement = Placement::Linear(4, 3);
  std::vector<int32_t> experts = {0, 1, 2, 3};  // 2 tokens, top-2
  CallSite site{"test", 6, 11};
};
std::vector<absl::Status> PlanWith(ExchangePath path, const std::function<void(int rank, PlanInputs&)>& change) {
  std::vector<absl::Status> out(3);
  RunThreads(Backend::kLocal, 3, absl::Seconds(10), [&](Transport& local) {
    HostedTransport t(local, "aab");
    PlanInputs in;
    change(t.rank().value, in);
    in.options.path = path;
    auto device = CreateCpuDevice({});
    auto stream = *device->CreateStream();
    auto exchange = *CreateExchange(t, *device, in.options);
    auto buffer = *device->Allocate(in.experts.size() * 4, MemoryKind::kDevice, "experts");
    stream->CopyToDevice(buffer.data(), in.experts.data(), in.experts.size() * 4);
    const Routing routing{MakeMatrix<int32_t>(buffer.data(), 2, 2), {}};
    out[t.rank().value] = exchange->Plan(*stream, in.site, routing, in.placement);
    EXPECT_EQ(exchange->Plan(*stream, {"test", 7}, routing, in.placement), out[t.rank().value]);  // sticks
  });
  return out;
}

class ExchangeErrors : public testing::TestWithParam<ExchangePath> {};
INSTANTIATE_TEST_SUITE_P(Paths, ExchangeErrors, testing::ValuesIn(kAllPaths),
                         [](const auto& info) { return ExchangePathName(info.param); });

TEST_P(ExchangeErrors, NamesRanksThatDisagree) {
  const auto hidden = PlanWith(GetParam(), [](int r, PlanInputs& in) { in.options.hidden = r == 1 ? 16 : 8; });
  const auto dtype =
      PlanWith(GetParam(), [](int r, PlanInputs& in) { in.options.wire_dtype = r == 2 ? DType::kBF16 : DType::kF32; });
  const auto placement = PlanWith(GetParam(), [](int r, PlanInputs& in) {
    if (r == 0) in.placement = *Placement::FromTable(4, {{0}, {1, 2}, {3}});
  });
  const auto layer = PlanWith(GetParam(), [](int r, PlanInputs& in) { in.site.layer = r == 1 ? 7 : 6; });
  const auto step = PlanWith(GetParam(), [](int r, PlanInputs& in) { in.site.step = r == 0 ? 12 : 11; });
  for (int r = 0; r < 3; ++r) {
    EXPECT_THAT(std::string(layer[r].message()),
                AllOf(HasSubstr("different exchanges"), HasSubstr("rank 1 in layer 7 of step 11, exchange 0"),
                      HasSubstr("layer 6 of step 11, exchange 0")));
    EXPECT_THAT(std::string(step[r].message()),
                AllOf(HasSubstr("different exchanges"), HasSubstr("rank 0 in layer 6 of step 12")));
    EXPECT_THAT(std::string(hidden[r].message()),
                AllOf(HasSubstr("layer 6, plan counts"), HasSubstr("hidden size"), HasSubstr("rank 1 has 16")));
    EXPECT_THAT(std::string(dtype[r].message()), AllOf(HasSubstr("row dtype"), HasSubstr("rank 2 has")));
    EXPECT_THAT(std::string(placement[r].message()), AllOf(HasSubstr("placement"), HasSubstr("rank 0 has")));
  }
}

TEST_P(ExchangeErrors, ARankWithABadRoutingEndsAllOfThem) {
  const auto status = PlanWith(GetParam(), [](int r, PlanInputs& in) {
    if (r == 1) in.experts[2] = 99;
  });
  EXPECT_THAT(std::string(status[1].message()), AllOf(HasSubstr("rank 1"), HasSubstr("token 1 selects expert 99")));
  for (int r : {0, 2}) EXPECT_THAT(std::string(status[r].message()), HasSubstr("rank 1 could not plan"));
}

TEST(Exchange, RefusesOptionsThatCannotWork) {
  RunThreads(Backend::kLocal, 1, absl::Seconds(10), [](Transport& t) {
    auto device = CreateCpuDevice({});
    EXPECT_FALSE(CreateExchange(t, *device, {.hidden = 0}).ok());
    EXPECT_FALSE(CreateExchange(t, *device, {.hidden = 8, .wire_dtype = DType::kI32}).ok());
    EXPECT_EQ((*CreateExchange(t, *device, {.hidden = 8}))->path(), ExchangePath::kPeer);
    // More than is allowed: peer says so, auto takes another path.
    const ExchangeOptions large{.hidden = 64, .max_tokens = 100, .max_top_k = 2, .max_peer_bytes = 1000};
    ExchangeOptions peer = large;
    peer.path = ExchangePath::kPeer;
    EXPECT_THAT(std::string(CreateExchange(t, *device, peer).status().message()), HasSubstr("more than the 1000"));
    EXPECT_NE((*CreateExchange(t, *device, large))->path(), ExchangePath::kPeer);
  });
}

// A rank that does not come to a phase is named, with the phase, at the deadline; a rank that has ended, earlier.
TEST(PeerExchange, NamesTheRankThatIsMissing) {
  for (const char* phase : {"plan counts", "dispatch rows", "combine rows"}) {
    SCOPED_TRACE(phase);
    const auto status = RunWithOneStuck(3, phase, [](Transport& t) { return RunOneCase(t, ExchangePath::kPeer); });
    for (int r : {0, 2}) {
      EXPECT_EQ(status[r].code(), absl::StatusCode::kDeadlineExceeded) << status[r];
      EXPECT_THAT(std::string(status[r].message()),
                  AllOf(HasSubstr(absl::StrCat("layer 2, ", phase, ", step 5, transfer 1: rank ", r, " waits for")),
                        HasSubstr("rank 1 on host")));
    }
  }
}

TEST(PeerExchange, ARankThatEndsIsNamedBeforeTheDeadline) {
  auto group = CreateLocalGroup(3, {.timeout = absl::Minutes(5)});
  std::vector<absl::Status> status(3);
  std::vector<std::thread> threads;
  for (int r = 0; r < 3; ++r) {
    threads.emplace_back([&, r] {
      if (r == 2) {
        auto device = CreateCpuDevice({});
        ASSERT_TRUE(CreateExchange(*group[r], *device, {.hidden = 8, .path = ExchangePath::kPeer}).ok());
        group[r]->Abort(absl::InternalError("its disk is full"));
        return;
      }
      status[r] = RunOneCase(*group[r], ExchangePath::kPeer);
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (int r : {0, 1}) {
    EXPECT_THAT(std::string(status[r].message()),
                AllOf(HasSubstr("plan counts"), HasSubstr("rank 2"), HasSubstr("its disk is full")));
  }
}

}  // namespace
}  // namespace tokenferry

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "bench/alltoall/round_trip.h"
#include "comm/tuning/exchange_choice.h"
#include "core/device/cpu_device.h"
#include "tests/bench/bench_run.h"
#include "tests/comm/transport/hosted_transport.h"
#include "tests/comm/transport/rank_group.h"

namespace tokenferry {
namespace {

using testing::HasSubstr;

class BenchLocal : public testing::TestWithParam<int> {};

TEST_P(BenchLocal, AllToAll) { RunThreads(Backend::kLocal, GetParam(), absl::Seconds(60), RunSmallAllToAllBench); }
TEST_P(BenchLocal, Moe) { RunThreads(Backend::kCheckedLocal, GetParam(), absl::Seconds(60), RunSmallMoeBench); }

INSTANTIATE_TEST_SUITE_P(Ranks, BenchLocal, testing::Values(1, 2, 3));

// What an exchange does wrong on rank 0, from its `from_run`-th dispatch or combine on.
enum class Fault { kNone, kTwoRowsSwapped, kRowOfAnotherToken, kOneBitOfASum, kTokenNotWritten };

class FaultyMover : public PathMover {
 public:
  FaultyMover(std::unique_ptr<PathMover> inner, Fault fault, int from_run)
      : inner_(std::move(inner)), fault_(fault), from_run_(from_run) {}

  absl::StatusOr<FloatMatrix> HomeRows(int64_t num_tokens) override { return inner_->HomeRows(num_tokens); }
  absl::Status Plan(Stream& stream, const CallSite& site, const Routing& routing, const Placement& placement,
                    int64_t most_tokens) override {
    return inner_->Plan(stream, site, routing, placement, most_tokens);
  }
  const ExchangePlan* host_plan() const override { return inner_->host_plan(); }
  absl::Status AddDeviceStats(Stream& stream, ExchangeStats& stats) const override {
    return inner_->AddDeviceStats(stream, stats);
  }
  absl::Status BeginDispatch(Stream& stream, const CallSite& site, ConstFloatMatrix home_rows) override {
    return inner_->BeginDispatch(stream, site, home_rows);
  }
  // Device memory of a CPU device in plain mode is this process's.
  absl::StatusOr<ExpertRows> FinishDispatch(Stream& stream, const CallSite& site) override {
    TF_ASSIGN_OR_RETURN(const ExpertRows rows, inner_->FinishDispatch(stream, site));
    if (run_++ < from_run_) return rows;
    auto* row_idx = const_cast<int32_t*>(rows.row_idx);
    for (int64_t s = 1; s < rows.max_selections; ++s) {
      if (row_idx[s] == row_idx[0]) continue;
      if (fault_ == Fault::kTwoRowsSwapped) std::swap(row_idx[0], row_idx[s]);
      if (fault_ == Fault::kRowOfAnotherToken) row_idx[0] = row_idx[s];
      break;
    }
    return rows;
  }
  absl::StatusOr<FloatMatrix> ExpertOut() override { return inner_->ExpertOut(); }
  absl::Status BeginCombine(Stream& stream, const CallSite& site) override {
    return inner_->BeginCombine(stream, site);
  }
  absl::Status FinishCombine(Stream& stream, const CallSite& site, MatrixView<const float> weight,
                             MatrixView<float> out) override {
    const std::vector<float> before(out.row(1), out.row(2));
    TF_RETURN_IF_ERROR(inner_->FinishCombine(stream, site, weight, out));
    if (run_ <= from_run_) return absl::OkStatus();
    if (fault_ == Fault::kOneBitOfASum) reinterpret_cast<uint32_t*>(out.row(2))[3] ^= 1;
    if (fault_ == Fault::kTokenNotWritten) std::copy(before.begin(), before.end(), out.row(1));
    return absl::OkStatus();
  }

 private:
  std::unique_ptr<PathMover> inner_;
  const Fault fault_;
  const int from_run_;
  int run_ = 0;
};

// Of rank 0; the first wrong run is `from_run`.
absl::Status TimeFaultyExchange(Fault fault, int from_run) {
  absl::Status status;
  RunThreads(Backend::kLocal, 2, absl::Seconds(20), [&](Transport& transport) {
    auto device = CreateCpuDevice({});
    const Topology topology = Topology::Of(transport);
    const BenchContext context{transport, *device, topology, Isa::kPortable, 1};
    const BenchPoint point{.tokens = 6, .hidden = 16, .num_experts = 6, .top_k = 2};
    auto problem = BenchProblem::Create(transport, *device, point, Placement::Linear(6, 2), nullptr);
    ASSERT_TRUE(problem.ok()) << problem.status();
    const ExchangeOptions options{.hidden = 16, .wire_dtype = DType::kBF16, .path = ExchangePath::kAllToAllV};
    const auto make_path = [&](const PathContext& path) -> absl::StatusOr<std::unique_ptr<PathMover>> {
      TF_ASSIGN_OR_RETURN(auto inner, kAllToAllVPath.create(path));
      return std::make_unique<FaultyMover>(std::move(inner), transport.rank() == RankId(0) ? fault : Fault::kNone,
                                           from_run);
    };
    auto exchange = Exchange::Create(transport, *device, options, make_path);
    ASSERT_TRUE(exchange.ok()) << exchange.status();
    AllToAllBenchOptions bench;
    bench.warmup = 1;
    bench.iters = 3;
    bench.memory_read_bytes = 1 << 16;
    const absl::Status timed = TimeExchange(context, **exchange, Reduction::kExact, **problem, bench).status();
    if (!timed.ok()) transport.Abort(timed);
    if (transport.rank() == RankId(0)) status = timed;
  });
  return status;
}

TEST(BenchVerification, ASoundExchangePasses) {
  const absl::Status status = TimeFaultyExchange(Fault::kNone, 0);
  EXPECT_TRUE(status.ok()) << status;
}

// Sums by host are other bits than sums in one; each reduction passes its own check, in both output types.
TEST(BenchVerification, SumsOfHostsAreTheirOwn) {
  for (const DType combine_dtype : {DType::kF32, DType::kBF16}) {
    for (const Reduction reduction : {Reduction::kExact, Reduction::kNode}) {
      for (const Reduction expected : {Reduction::kExact, Reduction::kNode}) {
        RunThreads(Backend::kLocal, 4, absl::Seconds(20), [&](Transport& transport) {
          HostedTransport hosted(transport, "aabb");
          auto device = CreateCpuDevice({});
          const Topology topology = Topology::Of(hosted);
          const BenchContext context{hosted, *device, topology, Isa::kPortable, 1};
          const BenchPoint point{
              .tokens = 20, .hidden = 40, .num_experts = 9, .top_k = 5, .combine_dtype = combine_dtype};
          auto problem = BenchProblem::Create(hosted, *device, point, Placement::Linear(9, 4), nullptr);
          ASSERT_TRUE(problem.ok()) << problem.status();
          auto exchange = CreateExchange(hosted, *device,
                                         {.hidden = 40,
                                          .wire_dtype = DType::kBF16,
                                          .output_dtype = combine_dtype,
                                          .path = ExchangePath::kTwoLevel,
                                          .reduction = reduction});
          ASSERT_TRUE(exchange.ok()) << exchange.status();
          AllToAllBenchOptions bench;
          bench.iters = 1;
          bench.memory_read_bytes = 1 << 16;
          const absl::Status timed = TimeExchange(context, **exchange, expected, **problem, bench).status();
          EXPECT_EQ(timed.code(), reduction == expected ? absl::StatusCode::kOk : absl::StatusCode::kDataLoss) << timed;
        });
      }
    }
  }
}

TEST(BenchVerification, CatchesMisroutedRowsAndWrongSumsBeforeTiming) {
  for (const Fault fault :
       {Fault::kTwoRowsSwapped, Fault::kRowOfAnotherToken, Fault::kOneBitOfASum, Fault::kTokenNotWritten}) {
    const absl::Status status = TimeFaultyExchange(fault, 0);
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << static_cast<int>(fault) << ": " << status;
    EXPECT_THAT(status.message(), HasSubstr("results are wrong")) << static_cast<int>(fault);
  }
}

TEST(BenchVerification, CatchesRowsThatGoWrongWhileTiming) {
  const absl::Status status = TimeFaultyExchange(Fault::kTwoRowsSwapped, 3);
  EXPECT_THAT(status.message(), HasSubstr("other rows than in the first run")) << status;
}

TEST(BenchVerification, CatchesSumsThatAreWrongAfterTiming) {
  const absl::Status status = TimeFaultyExchange(Fault::kOneBitOfASum, 5);
  EXPECT_THAT(status.message(), HasSubstr("results are wrong")) << status;
}

}  // namespace
}  // namespace tokenferry

// An exchange in steady state takes no memory: operator new is counted on the rank's thread.
#include <gtest/gtest.h>

#include <cstdlib>
#include <new>

#include "comm/exchange.h"
#include "core/device/cpu_device.h"
#include "tests/comm/exchange_case.h"
#include "tests/comm/rank_group.h"

namespace {
thread_local int64_t num_allocations = 0;

void* Allocate(std::size_t size, std::size_t alignment) {
  ++num_allocations;
  void* p = std::aligned_alloc(alignment, (size + alignment - 1) / alignment * alignment);
  if (p == nullptr) std::abort();
  return p;
}
}  // namespace

void* operator new(std::size_t size) { return Allocate(size == 0 ? 1 : size, alignof(std::max_align_t)); }
void* operator new(std::size_t size, std::align_val_t alignment) {
  return Allocate(size, static_cast<std::size_t>(alignment));
}
void operator delete(void* p) noexcept { std::free(p); }
void operator delete(void* p, std::size_t) noexcept { std::free(p); }
void operator delete(void* p, std::align_val_t) noexcept { std::free(p); }
void operator delete(void* p, std::size_t, std::align_val_t) noexcept { std::free(p); }

namespace tokenferry {
namespace {

constexpr int kTokens = 24, kTopK = 3, kExperts = 8;
constexpr int64_t kHidden = 40;
constexpr int kNumExchanges = 100;

// This rank's part of exchanges whose routings differ, over and over; counts what is allocated once buffers have grown.
class SteadyExchanges {
 public:
  SteadyExchanges(Transport& transport, ExchangePath path, DType row_dtype, DType output_dtype)
      : transport_(transport), device_(CreateCpuDevice({.num_threads = 1})), stream_(*device_->CreateStream()) {
    auto exchange = CreateExchange(
        transport, *device_, {.hidden = kHidden, .row_dtype = row_dtype, .output_dtype = output_dtype, .path = path});
    if (!exchange.ok()) transport.Abort(exchange.status());
    exchange_ = *std::move(exchange);
    for (int i = 0; i < kNumRoutings; ++i) {
      const ExchangeCase c = RandomCase(100 * i + transport.rank().value, kTokens, kExperts, kTopK, kHidden, row_dtype);
      expert_idx_.push_back(c.expert_idx);
      weight_.push_back(c.weight);
      rows_ = c.rows;
    }
    out_.resize(kTokens * kHidden);
  }

  int64_t Count() {
    const Placement placement = Placement::Linear(kExperts, transport_.num_ranks());
    for (int i = 0; i < kNumRoutings; ++i) Run(placement, i);  // every size has been there
    const int64_t before = num_allocations;
    for (int i = 0; i < kNumExchanges; ++i) Run(placement, i % kNumRoutings);
    return num_allocations - before;
  }

 private:
  static constexpr int kNumRoutings = 5;

  // Device memory of a CPU device in plain mode is this process's.
  void Run(const Placement& placement, int i) {
    const CallSite site{"steady", 1, 2};
    const Routing routing{MakeMatrix<int32_t>(expert_idx_[i].data(), kTokens, kTopK),
                          MakeMatrix<float>(weight_[i].data(), kTokens, kTopK)};
    const auto plan = exchange_->Plan(*stream_, site, routing, placement);
    ASSERT_TRUE(plan.ok()) << plan.status();
    const auto rows =
        exchange_->Dispatch(*stream_, site, **plan, MakeMatrix<const float>(rows_.data(), kTokens, kHidden));
    ASSERT_TRUE(rows.ok()) << rows.status();
    const auto out = exchange_->ExpertOut(**plan);
    ASSERT_TRUE(out.ok()) << out.status();
    if (out->rows > 0) stream_->Fill(out->data, 0, out->rows * out->cols * out->element_bytes());
    const absl::Status combined =
        exchange_->Combine(*stream_, site, **plan, routing.weight, MakeMatrix<float>(out_.data(), kTokens, kHidden));
    ASSERT_TRUE(combined.ok()) << combined;
    ASSERT_TRUE(stream_->Synchronize().ok());
  }

  Transport& transport_;
  std::unique_ptr<Device> device_;
  std::unique_ptr<Stream> stream_;
  std::unique_ptr<Exchange> exchange_;
  std::vector<std::vector<int32_t>> expert_idx_;
  std::vector<std::vector<float>> weight_;
  std::vector<float> rows_, out_;
};

class Allocations : public testing::TestWithParam<std::tuple<ExchangePath, DType, DType, int>> {};

TEST_P(Allocations, NoneInSteadyState) {
  RunThreads(Backend::kLocal, std::get<3>(GetParam()), absl::Seconds(60), [&](Transport& transport) {
    const auto [path, row_dtype, output_dtype, num_ranks] = GetParam();
    SteadyExchanges exchanges(transport, path, row_dtype, output_dtype);
    EXPECT_EQ(exchanges.Count(), 0);
  });
}

INSTANTIATE_TEST_SUITE_P(Paths, Allocations,
                         testing::Combine(testing::Values(ExchangePath::kPeer, ExchangePath::kAllToAllV),
                                          testing::Values(DType::kF32, DType::kBF16, DType::kF8E4M3),
                                          testing::Values(DType::kF32, DType::kBF16), testing::Values(1, 2, 3)));

}  // namespace
}  // namespace tokenferry

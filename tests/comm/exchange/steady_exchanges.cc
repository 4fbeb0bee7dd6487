#include "tests/comm/exchange/steady_exchanges.h"

#include <gtest/gtest.h>

#include "comm/tuning/exchange_choice.h"
#include "core/device/cpu_device.h"
#include "tests/comm/exchange/exchange_case.h"

namespace tokenferry {
namespace {

constexpr int kTokens = 24, kTopK = 3, kExperts = 8;
constexpr int64_t kHidden = 40;

}  // namespace

SteadyExchanges::SteadyExchanges(Transport& transport, ExchangePath path, Reduction reduction, DType wire_dtype,
                                 DType output_dtype)
    : placement_(Placement::Linear(kExperts, transport.num_ranks())),
      device_(CreateCpuDevice({.num_threads = 1})),
      stream_(*device_->CreateStream()) {
  auto exchange = CreateExchange(transport, *device_,
                                 {.hidden = kHidden,
                                  .wire_dtype = wire_dtype,
                                  .output_dtype = output_dtype,
                                  .path = path,
                                  .reduction = reduction});
  if (!exchange.ok()) transport.Abort(exchange.status());
  exchange_ = *std::move(exchange);
  for (int i = 0; i < kNumRoutings; ++i) {
    const ExchangeCase c = RandomCase(100 * i + transport.rank().value, kTokens, kExperts, kTopK, kHidden, wire_dtype);
    expert_idx_.push_back(c.expert_idx);
    weight_.push_back(c.weight);
    rows_ = c.rows;
  }
  out_.resize(kTokens * kHidden);
}

void SteadyExchanges::WarmUp() { Run(kNumRoutings); }

void SteadyExchanges::Run(int num_exchanges) {
  for (int i = 0; i < num_exchanges; ++i) RunOne(i % kNumRoutings);
}

// Device memory of a CPU device in plain mode is this process's.
void SteadyExchanges::RunOne(int i) {
  const CallSite site{"steady", 1, 2};
  const Routing routing{MakeMatrix<int32_t>(expert_idx_[i].data(), kTokens, kTopK),
                        MakeMatrix<float>(weight_[i].data(), kTokens, kTopK)};
  ASSERT_EQ(exchange_->Plan(*stream_, site, routing, placement_), absl::OkStatus());
  const auto rows = exchange_->Dispatch(*stream_, site, MakeMatrix<const float>(rows_.data(), kTokens, kHidden));
  ASSERT_TRUE(rows.ok()) << rows.status();
  const auto out = exchange_->ExpertOut();
  ASSERT_TRUE(out.ok()) << out.status();
  if (out->rows > 0) stream_->Fill(out->data, 0, out->rows * out->cols * out->element_bytes());
  const absl::Status combined =
      exchange_->Combine(*stream_, site, routing.weight, MakeMatrix<float>(out_.data(), kTokens, kHidden));
  ASSERT_TRUE(combined.ok()) << combined;
  ASSERT_TRUE(stream_->Synchronize().ok());
}

}  // namespace tokenferry

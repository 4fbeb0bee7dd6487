#include "tests/comm/exchange/device_peer_case.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <numeric>
#include <random>

#include "comm/exchange/peer/device_peer_exchange.h"
#include "comm/transport/collectives.h"
#include "core/device/cpu_device.h"
#include "core/kernels/matmul.h"

namespace tokenferry {
namespace {

constexpr int kMostTokens = 40, kMostTopK = 8;  // of an exchange

std::vector<float> Uniform(std::mt19937& rng, int64_t size) {
  std::uniform_real_distribution<float> uniform(-1, 1);
  std::vector<float> values(size);
  for (float& x : values) x = uniform(rng);
  return values;
}

}  // namespace

std::string DevicePeerCases::ToString() const {
  return absl::StrCat(num_experts, " experts, hidden ", options.hidden, ", ", DTypeName(options.wire_dtype), " to ",
                      DTypeName(options.expert_dtype), ", back ", DTypeName(options.output_dtype));
}

DevicePeerCases RandomDevicePeerCases(uint32_t seed, int num_ranks) {
  std::mt19937 rng(seed);
  const auto draw = [&](int n) { return static_cast<int>(rng() % static_cast<uint32_t>(n)); };
  DevicePeerCases cases;
  cases.num_experts = 1 + draw(13);
  ExchangeOptions& options = cases.options;
  options.hidden = std::vector<int>{1, 7, 16, 33, 136}[draw(5)];
  options.wire_dtype = std::vector<DType>{DType::kF32, DType::kBF16, DType::kF8E4M3, DType::kI8}[draw(4)];
  options.expert_dtype = draw(2) == 0 ? DType::kF32 : DType::kBF16;
  options.output_dtype = draw(2) == 0 ? DType::kF32 : DType::kBF16;
  options.max_tokens = kMostTokens;
  options.max_top_k = kMostTopK;
  for (int i = 0; i < 2; ++i) {
    std::vector<std::vector<int>> table(num_ranks);
    for (int e = 0; e < cases.num_experts; ++e) {
      const int home = draw(num_ranks);
      for (int r = 0; r < num_ranks; ++r) {
        if (r == home || draw(5) == 0) table[r].push_back(e);
      }
    }
    cases.placements.push_back(*Placement::FromTable(cases.num_experts, table));
  }
  for (int i = 0; i < 5; ++i) {
    DevicePeerCases::Step& step = cases.steps.emplace_back();
    for (int r = 0; r < num_ranks; ++r) step.tokens.push_back(draw(3) == 0 ? draw(2) : draw(kMostTokens + 1));
    step.top_k = 1 + draw(kMostTopK);
    step.placement = i < 3 ? 0 : 1;
    step.tells_most_tokens = draw(2) == 0;
    step.seed = static_cast<uint32_t>(rng());
  }
  return cases;
}

absl::StatusOr<std::unique_ptr<DevicePeerRank>> DevicePeerRank::Create(Transport& transport, Device& device,
                                                                       const DevicePeerCases& cases, Path path) {
  std::unique_ptr<DevicePeerRank> rank(new DevicePeerRank(transport, device, cases));
  TF_ASSIGN_OR_RETURN(rank->stream_, device.CreateStream());
  ExchangeOptions options = cases.options;
  if (path == Path::kAllToAllV) {
    options.path = ExchangePath::kAllToAllV;
    TF_ASSIGN_OR_RETURN(rank->exchange_, Exchange::Create(transport, device, options));
  } else {
    options.path = ExchangePath::kPeer;
    TF_ASSIGN_OR_RETURN(rank->exchange_, Exchange::Create(transport, device, options, CreateDevicePeerMover));
  }
  TF_RETURN_IF_ERROR(rank->Allocate());
  return rank;
}

absl::Status DevicePeerRank::Allocate() {
  constexpr int64_t kRoom = kMostTokens + 1;  // for one that is too large
  const int64_t h = cases_.options.hidden, word = sizeof(float);
  const auto allocate = [&](Buffer& buffer, int64_t num_bytes) -> absl::Status {
    TF_ASSIGN_OR_RETURN(buffer, device_.Allocate(num_bytes, MemoryKind::kDevice, "test"));
    return absl::OkStatus();
  };
  // Nothing is freed later: that would wait for everything on a GPU that ranks share, also for waits for this rank.
  TF_RETURN_IF_ERROR(allocate(rows_, kRoom * h * word));
  TF_RETURN_IF_ERROR(allocate(out_, kRoom * h * word));
  TF_RETURN_IF_ERROR(allocate(weight_, kRoom * kMostTopK * word));
  TF_RETURN_IF_ERROR(allocate(expert_idx_, kRoom * kMostTopK * word));
  std::mt19937 rng(7);
  const std::vector<float> weights = Uniform(rng, cases_.num_experts * h * h);
  TF_RETURN_IF_ERROR(allocate(weights_, static_cast<int64_t>(weights.size()) * word));
  stream_->CopyToDevice(weights_.data(), weights.data(), weights_.num_bytes());
  for (const Placement& placement : cases_.placements) {
    std::vector<WeightView> views;
    for (const int e : placement.local_experts(transport_.rank())) {
      views.push_back(
          {.format = {.dtype = DType::kF32}, .data = weights_.as<float>() + e * h * h, .rows = h, .cols = h});
    }
    TF_RETURN_IF_ERROR(allocate(views_.emplace_back(), static_cast<int64_t>(views.size() * sizeof(WeightView))));
    stream_->CopyToDevice(views_.back().data(), views.data(), views_.back().num_bytes());
  }
  return stream_->Synchronize();
}

void DevicePeerRank::Prepare(const DevicePeerCases::Step& step) {
  const int me = transport_.rank().value;
  const int64_t num_tokens = step.tokens[me], h = cases_.options.hidden, k = step.top_k;
  std::mt19937 rng(step.seed + static_cast<uint32_t>(me));
  std::vector<int32_t> experts;
  std::vector<int32_t> all(std::max<int64_t>(k, cases_.num_experts), -1);  // a token's experts are distinct, or none
  std::iota(all.begin(), all.begin() + cases_.num_experts, 0);
  for (int64_t t = 0; t < num_tokens; ++t) {
    std::shuffle(all.begin(), all.end(), rng);
    for (int64_t i = 0; i < k; ++i) experts.push_back(rng() % 8 == 0 ? -1 : all[i]);
  }
  const std::vector<float> rows = Uniform(rng, num_tokens * h), weight = Uniform(rng, num_tokens * k);
  stream_->CopyToDevice(rows_.data(), rows.data(), rows.size() * sizeof(float));
  stream_->CopyToDevice(weight_.data(), weight.data(), weight.size() * sizeof(float));
  stream_->CopyToDevice(expert_idx_.data(), experts.data(), experts.size() * sizeof(int32_t));
  stream_->Fill(out_.data(), 0xFF, num_tokens * h * sizeof(float));  // NaN: every row must be written
}

absl::Status DevicePeerRank::Enqueue(const DevicePeerCases::Step& step) {
  return Enqueue(step, step.tells_most_tokens ? *std::max_element(step.tokens.begin(), step.tokens.end()) : 0);
}

absl::Status DevicePeerRank::Enqueue(const DevicePeerCases::Step& step, int64_t most_tokens) {
  const int64_t num_tokens = step.tokens[transport_.rank().value], h = cases_.options.hidden, k = step.top_k;
  const Placement& placement = cases_.placements[step.placement];
  const Routing routing{MakeMatrix<int32_t>(expert_idx_.data(), num_tokens, k),
                        MakeMatrix<float>(weight_.data(), num_tokens, k)};
  const CallSite site{"test", 2, 5};
  ConstFloatMatrix given = MakeMatrix<const float>(rows_.data(), num_tokens, h);
  TF_ASSIGN_OR_RETURN(const FloatMatrix home, exchange_->HomeRows(num_tokens));
  if (step.seed % 2 == 0 && home.dtype == DType::kF32 && num_tokens > 0) {
    stream_->CopyOnDevice(home.data, rows_.data(), num_tokens * h * sizeof(float));
    given = home;
  }
  TF_RETURN_IF_ERROR(exchange_->Plan(*stream_, site, routing, placement, most_tokens));
  TF_ASSIGN_OR_RETURN(const ExpertRows rows, exchange_->Dispatch(*stream_, site, given));
  TF_ASSIGN_OR_RETURN(const FloatMatrix out, exchange_->ExpertOut());
  if (rows.max_selections > 0) {
    GroupedMatMul(*stream_, {.x = rows.rows,
                             .x_dtype = rows.dtype,
                             .x_stride = rows.row_stride,
                             .row_idx = rows.row_idx,
                             .offsets = rows.slot_offsets,
                             .num_groups = placement.num_local_slots(transport_.rank()),
                             .max_rows = rows.max_selections,
                             .weights = {.layout = {.format = {.dtype = DType::kF32}, .rows = h, .cols = h},
                                         .views = views_[step.placement].as<WeightView>()},
                             .y = out.data,
                             .y_dtype = out.dtype,
                             .y_stride = out.stride});
  }
  return exchange_->Combine(*stream_, site, routing.weight, MakeMatrix<float>(out_.data(), num_tokens, h));
}

absl::StatusOr<std::vector<float>> DevicePeerRank::Read(const DevicePeerCases::Step& step) {
  std::vector<float> host(step.tokens[transport_.rank().value] * cases_.options.hidden);
  if (!host.empty()) stream_->CopyToHost(host.data(), out_.data(), host.size() * sizeof(float));
  TF_RETURN_IF_ERROR(stream_->Synchronize());
  return host;
}

absl::StatusOr<std::vector<float>> DevicePeerRank::Run(const DevicePeerCases::Step& step) {
  Prepare(step);
  TF_RETURN_IF_ERROR(Enqueue(step));
  return Read(step);
}

namespace {

void ExpectSameStats(const ExchangeStats& got, const ExchangeStats& want) {
  EXPECT_EQ(got.num_exchanges, want.num_exchanges);
  EXPECT_EQ(got.num_tokens, want.num_tokens);
  EXPECT_EQ(got.num_selections, want.num_selections);
  EXPECT_EQ(got.dispatch_rows_per_rank, want.dispatch_rows_per_rank);
  EXPECT_EQ(got.dispatch_bytes_per_rank, want.dispatch_bytes_per_rank);
  EXPECT_EQ(got.combine_bytes_per_rank, want.combine_bytes_per_rank);
  EXPECT_EQ(got.bases, want.bases);
}

}  // namespace

void ExpectDevicePeerEqualsAllToAllV(Transport& transport, Device& device, uint32_t seed) {
  SCOPED_TRACE(absl::StrCat(transport.ToString(), ", seed ", seed));
  const DevicePeerCases cases = RandomDevicePeerCases(seed, transport.num_ranks());
  SCOPED_TRACE(cases.ToString());
  auto cpu = CreateCpuDevice({});
  auto want = DevicePeerRank::Create(transport, *cpu, cases, DevicePeerRank::Path::kAllToAllV);
  auto got = DevicePeerRank::Create(transport, device, cases, DevicePeerRank::Path::kDevicePeer);
  ASSERT_TRUE(want.ok()) << want.status();
  ASSERT_TRUE(got.ok()) << got.status();
  for (size_t i = 0; i < cases.steps.size(); ++i) {
    SCOPED_TRACE(absl::StrCat("step ", i));
    const auto want_out = (*want)->Run(cases.steps[i]), got_out = (*got)->Run(cases.steps[i]);
    ASSERT_TRUE(want_out.ok()) << want_out.status();
    ASSERT_TRUE(got_out.ok()) << got_out.status();
    ASSERT_EQ(got_out->size(), want_out->size());
    if (want_out->empty()) continue;
    EXPECT_EQ(std::memcmp(got_out->data(), want_out->data(), want_out->size() * sizeof(float)), 0);
  }
  ExpectSameStats(*(*got)->exchange().stats((*got)->stream()), *(*want)->exchange().stats((*want)->stream()));
  // Others may still read this rank's outputs.
  EXPECT_EQ(Barrier(transport, {"end of a case"}), absl::OkStatus());
}

}  // namespace tokenferry

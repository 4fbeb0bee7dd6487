#include "runtime/engine/moe_layer.h"

#include <algorithm>

#include "absl/algorithm/container.h"
#include "comm/transport/collectives.h"
#include "core/check.h"
#include "core/host/clock.h"
#include "core/kernels/matmul.h"
#include "experts/ffn/count_rows.h"
#include "runtime/ops/elementwise_ops.h"

namespace tokenferry {
namespace {

CallSite At(CallSite site, const char* phase) {
  site.phase = phase;
  return site;
}

}  // namespace

ExchangeOptions ExchangeOptionsOf(const MoeShape& shape, const MoeOptions& options) {
  // Rows are rounded to bf16 anyway before they meet a weight in kBF16: sending them so loses nothing.
  const DType expert_dtype = shape.compute == Compute::kBF16 ? DType::kBF16 : DType::kF32;
  ExchangeOptions exchange = options.exchange;
  exchange.hidden = shape.hidden;
  exchange.wire_dtype = options.dispatch_dtype.value_or(expert_dtype);
  exchange.expert_dtype = expert_dtype;
  if (exchange.max_tokens == 0) exchange.max_tokens = shape.max_tokens;
  exchange.max_top_k = shape.router.top_k;
  return exchange;
}

MoeLayer::MoeLayer(Device& device, const Placement& placement, RankId rank, const MoeShape& shape,
                   const MoeOptions& options)
    : device_(device),
      placement_(placement),
      shape_(shape),
      on_plan_(options.on_plan),
      overflow_kind_(options.overflow.kind),
      num_slots_(placement.num_local_slots(rank)) {}

absl::StatusOr<std::unique_ptr<MoeLayer>> MoeLayer::Create(Transport& transport, Device& device,
                                                           const Placement& placement, const MoeShape& shape,
                                                           const MoeOptions& options) {
  std::unique_ptr<MoeLayer> layer(new MoeLayer(device, placement, transport.rank(), shape, options));
  TF_RETURN_IF_ERROR(layer->Allocate());
  const OverflowStageOptions overflow{.policy = options.overflow,
                                      .num_layers = shape.num_layers,
                                      .top_k = shape.router.top_k,
                                      .max_tokens = shape.max_tokens};
  TF_ASSIGN_OR_RETURN(layer->overflow_, OverflowStage::Create(transport, device, placement, overflow));
  layer->experts_ =
      std::make_unique<GatedExperts>(device, layer->num_slots_, shape.intermediate, shape.activation, shape.compute);
  if (options.overflow.padding == Padding::kCapacity) {
    layer->experts_ =
        std::make_unique<PaddedExperts>(device, layer->num_slots_, *layer->overflow_, std::move(layer->experts_));
  }
  ExchangeOptions exchange = ExchangeOptionsOf(shape, options);
  // Who wants to see plans takes the path that makes them on the host.
  const bool on_gpu = device.kind() == DeviceKind::kCuda;
  if (on_gpu && options.on_plan && exchange.path == ExchangePath::kAuto) exchange.path = ExchangePath::kAllToAllV;
  TF_ASSIGN_OR_RETURN(layer->exchanges_, ExchangeBySize::Create(transport, device, exchange));
  if (on_gpu && layer->exchanges_.For(exchange.max_tokens).path() == ExchangePath::kPeer) {
    const absl::Status reserved = layer->ReserveExperts(transport.num_ranks(), exchange);
    TF_RETURN_IF_ERROR(AgreeOnStatus(transport, {"start: expert scratch"}, reserved));
  }
  return layer;
}

// For the most that path peer lets come. Growing later would free memory, which waits for everything on a GPU: where
// ranks share one, for ranks that wait for this one.
absl::Status MoeLayer::ReserveExperts(int num_ranks, const ExchangeOptions& exchange) {
  const int64_t most = num_ranks * exchange.max_tokens * std::min<int64_t>(shape_.router.top_k, num_slots_);
  return experts_->Reserve({.dtype = exchange.resident_dtype(), .hidden = exchange.hidden, .max_selections = most},
                           exchange.output_dtype);
}

absl::Status MoeLayer::Allocate() {
  const int64_t T = shape_.max_tokens, E = shape_.num_experts, K = shape_.router.top_k;
  const auto allocate = [&](Buffer& buffer, size_t num_bytes, absl::string_view label) -> absl::Status {
    TF_ASSIGN_OR_RETURN(buffer, device_.Allocate(num_bytes, MemoryKind::kDevice, label));
    return absl::OkStatus();
  };
  TF_RETURN_IF_ERROR(allocate(logits_, T * E * sizeof(float), "router logits"));
  TF_RETURN_IF_ERROR(allocate(expert_idx_, T * K * sizeof(int32_t), "expert indices"));
  TF_RETURN_IF_ERROR(allocate(expert_weight_, T * K * sizeof(float), "expert weights"));
  if (shape_.weight_on == WeightOn::kInput) {
    TF_CHECK_EQ(K, 1);
    TF_RETURN_IF_ERROR(allocate(scaled_rows_, T * shape_.hidden * sizeof(float), "scaled rows"));
    TF_RETURN_IF_ERROR(allocate(ones_, T * sizeof(float), "combine weights"));
  }
  TF_RETURN_IF_ERROR(allocate(bad_tokens_, T, "bad tokens"));
  TF_RETURN_IF_ERROR(allocate(rows_per_slot_, shape_.num_layers * num_slots_ * sizeof(int64_t), "rows per slot"));
  TF_ASSIGN_OR_RETURN(std::unique_ptr<Stream> stream, device_.CreateStream());
  if (bad_tokens_.num_bytes() > 0) stream->Fill(bad_tokens_.data(), 0, bad_tokens_.num_bytes());
  if (rows_per_slot_.num_bytes() > 0) stream->Fill(rows_per_slot_.data(), 0, rows_per_slot_.num_bytes());
  const std::vector<float> ones(ones_.num_bytes() / sizeof(float), 1.0f);
  if (!ones.empty()) stream->CopyToDevice(ones_.data(), ones.data(), ones_.num_bytes());
  return stream->Synchronize();
}

absl::Status MoeLayer::Route(Stream& stream, MoeStep& step) {
  const int64_t T = step.x.rows, K = shape_.router.top_k;
  TF_CHECK_LE(step.first_row + T, shape_.max_tokens);
  ++stats_.num_calls;
  step.routing = {MakeMatrix<int32_t>(expert_idx_.data(), T, K), MakeMatrix<float>(expert_weight_.data(), T, K)};
  {
    const ScopedTimer timer(stats_.route_seconds);
    const auto logits = MakeMatrix<float>(logits_.data(), T, shape_.num_experts);
    // f32 in every compute mode, as in DeepSeek-V3.
    MatMul(stream, {.x = step.x.data,
                    .x_stride = step.x.stride,
                    .num_rows = T,
                    .w = step.weights->router,
                    .y = logits.data,
                    .y_stride = logits.stride});
    if (step.weights->router_bias != nullptr) AddBias(stream, {logits, step.weights->router_bias});
    step.router_logits = logits;
    RouteArgs args{shape_.router};
    args.logits = logits;
    args.bias = step.weights->choice_bias;
    args.out = step.routing;
    args.choice = overflow_->choice(T);
    args.bad_tokens = bad_tokens_.as<uint8_t>() + step.first_row;
    args.position = step.position;
    tokenferry::Route(stream, args);
  }
  if (overflow_kind_ == Overflow::kSequenceCapacity) {
    TF_RETURN_IF_ERROR(overflow_->RunBySequence(stream, step.moe_idx, *step.sequences, step.first_row, step.routing));
  } else {
    TF_RETURN_IF_ERROR(overflow_->Run(stream, At(step.site, "overflow"), step.moe_idx, step.routing));
  }
  step.combine_weight = step.routing.weight;
  if (shape_.weight_on == WeightOn::kOutput) return absl::OkStatus();
  const auto scaled = MakeMatrix<float>(scaled_rows_.data(), T, shape_.hidden);
  ScaleRows(stream, {step.x, step.routing.weight, scaled});
  step.rows = ConstFloatMatrix(MatrixView<const float>(scaled));
  step.combine_weight = MakeMatrix<const float>(ones_.data(), T, K);
  return absl::OkStatus();
}

absl::Status MoeLayer::Plan(Stream& stream, const MoeStep& step) {
  const CallSite site = At(step.site, "plan");
  exchange_ = &exchanges_.For(step.max_tokens_per_rank);
  TF_RETURN_IF_ERROR(exchange_->Plan(stream, site, step.routing, placement_, step.max_tokens_per_rank));
  if (on_plan_ && exchange_->host_plan() != nullptr) on_plan_(site, *exchange_->host_plan());
  return absl::OkStatus();
}

absl::Status MoeLayer::BeginDispatch(Stream& stream, const MoeStep& step) {
  return exchange_->BeginDispatch(stream, At(step.site, "dispatch"), step.rows);
}

absl::StatusOr<ExpertRows> MoeLayer::FinishDispatch(Stream& stream, const MoeStep& step) {
  return exchange_->FinishDispatch(stream, At(step.site, "dispatch"));
}

absl::Status MoeLayer::Experts(Stream& stream, const MoeStep& step, const ExpertRows& rows) {
  TF_ASSIGN_OR_RETURN(const FloatMatrix out, exchange_->ExpertOut());
  const ScopedTimer timer(stats_.experts_seconds);
  if (num_slots_ > 0) {
    CountRows(stream, {rows.slot_offsets, num_slots_, rows_per_slot_.as<int64_t>() + step.moe_idx * num_slots_});
  }
  return experts_->Run(stream, step.weights->experts, rows, out);
}

absl::Status MoeLayer::BeginCombine(Stream& stream, const MoeStep& step) {
  return exchange_->BeginCombine(stream, At(step.site, "combine"));
}

absl::Status MoeLayer::FinishCombine(Stream& stream, const MoeStep& step) {
  return exchange_->FinishCombine(stream, At(step.site, "combine"), step.combine_weight, step.out);
}

absl::Status MoeLayer::TakeBadTokens(Stream& stream, absl::Span<uint8_t> marks) {
  if (marks.empty()) return absl::OkStatus();
  std::vector<uint8_t> bad(marks.size());
  stream.CopyToHost(bad.data(), bad_tokens_.data(), bad.size());
  TF_RETURN_IF_ERROR(stream.Synchronize());
  if (!absl::c_linear_search(bad, 1)) return absl::OkStatus();
  stream.Fill(bad_tokens_.data(), 0, bad.size());
  for (size_t t = 0; t < bad.size(); ++t) marks[t] |= bad[t];
  return absl::OkStatus();
}

absl::StatusOr<MoeStats> MoeLayer::stats(Stream& stream) const {
  MoeStats stats = stats_;
  stats.overflow = overflow_->counts();
  stats.rows_per_slot.assign(shape_.num_layers, std::vector<int64_t>(num_slots_));
  if (num_slots_ == 0) return stats;
  for (int l = 0; l < shape_.num_layers; ++l) {
    stream.CopyToHost(stats.rows_per_slot[l].data(), rows_per_slot_.as<int64_t>() + l * num_slots_,
                      num_slots_ * sizeof(int64_t));
  }
  TF_RETURN_IF_ERROR(stream.Synchronize());
  return stats;
}

MoeStats& MoeStats::operator+=(const MoeStats& other) {
  TF_CHECK_EQ(rows_per_slot.size(), other.rows_per_slot.size());
  for (size_t l = 0; l < rows_per_slot.size(); ++l) {
    for (size_t s = 0; s < rows_per_slot[l].size(); ++s) rows_per_slot[l][s] += other.rows_per_slot[l][s];
    overflow[l] += other.overflow[l];
  }
  num_calls += other.num_calls;
  route_seconds += other.route_seconds;
  experts_seconds += other.experts_seconds;
  return *this;
}

}  // namespace tokenferry

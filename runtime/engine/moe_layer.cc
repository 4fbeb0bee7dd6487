#include "runtime/engine/moe_layer.h"

#include "comm/transport/topology.h"
#include "comm/tuning/exchange_budget.h"
#include "core/host/clock.h"
#include "core/kernels/matmul.h"
#include "experts/ffn/count_rows.h"
#include "experts/ffn/expert_ffn.h"
#include "experts/ffn/padded_rows.h"
#include "experts/router/router.h"

namespace tokenferry {
namespace {

CallSite At(CallSite site, const char* phase) {
  site.phase = phase;
  return site;
}

}  // namespace

absl::StatusOr<std::unique_ptr<MoeLayer>> MoeLayer::Create(Transport& transport, Device& device,
                                                           const ModelConfig& config, const Placement& placement,
                                                           const EngineOptions& options) {
  std::unique_ptr<MoeLayer> layer(new MoeLayer(transport, device, config, placement, options));
  TF_RETURN_IF_ERROR(layer->AllocateScratch());
  const OverflowStageOptions overflow{.policy = options.moe.overflow,
                                      .num_layers = static_cast<int>(config.num_moe_layers()),
                                      .top_k = static_cast<int>(config.num_experts_per_tok),
                                      .max_tokens = options.max_tokens()};
  TF_ASSIGN_OR_RETURN(layer->overflow_, OverflowStage::Create(transport, device, placement, overflow));
  if (options.overlap == Overlap::kTwoBatch && options.moe.overflow.kind != Overflow::kDropless) {
    return absl::InvalidArgumentError(
        "overlap two_batch: an overflow policy looks at all tokens of a step at once; choose dropless, or overlap "
        "shared");
  }
  TF_RETURN_IF_ERROR(layer->CreateExchanges());
  return layer;
}

absl::Status MoeLayer::CreateExchanges() {
  // Rows are rounded to bf16 anyway before they meet a weight in kBF16: sending them so loses nothing.
  const DType expert_dtype = options_.compute == Compute::kBF16 ? DType::kBF16 : DType::kF32;
  const auto num_batches = static_cast<int64_t>(micro_batches_.size());
  ExchangeOptions exchange = options_.moe.exchange;
  exchange.hidden = config_.hidden_size;
  exchange.wire_dtype = options_.moe.dispatch_dtype.value_or(expert_dtype);
  exchange.expert_dtype = expert_dtype;
  exchange.max_tokens = (options_.max_tokens() + num_batches - 1) / num_batches;
  exchange.max_top_k = static_cast<int>(config_.num_experts_per_tok);
  if (options_.moe.exchange_budget > 0) {
    // The automatic path between hosts may be several, by size, each with its own buffers.
    const bool one_path = Topology::Of(transport_).num_hosts() == 1 && device_.kind() == DeviceKind::kCpu;
    if (exchange.path == ExchangePath::kAuto && !one_path) exchange.path = ExchangePath::kAllToAllV;
    TF_ASSIGN_OR_RETURN(exchange.max_tokens,
                        TokensWithin(options_.moe.exchange_budget / num_batches, exchange, placement_));
  }
  tokens_per_round_ = std::max<int64_t>(1, exchange.max_tokens);
  for (MicroBatch& mb : micro_batches_) {
    TF_ASSIGN_OR_RETURN(mb.exchanges, ExchangeBySize::Create(transport_, device_, exchange));
    exchange.on_choice = nullptr;  // told once
  }
  return absl::OkStatus();
}

MoeLayer::MoeLayer(Transport& transport, Device& device, const ModelConfig& config, const Placement& placement,
                   const EngineOptions& options)
    : transport_(transport),
      device_(device),
      config_(config),
      placement_(placement),
      options_(options),
      num_slots_(placement.num_local_slots(transport.rank())) {
  micro_batches_.resize(options.overlap == Overlap::kTwoBatch ? kMaxMicroBatches : 1);
}

absl::Status MoeLayer::AllocateScratch() {
  const int64_t T = options_.max_tokens(), E = config_.n_routed_experts, K = config_.num_experts_per_tok;
  const auto allocate = [&](Buffer& buffer, size_t num_bytes, absl::string_view label) -> absl::Status {
    TF_ASSIGN_OR_RETURN(buffer, device_.Allocate(num_bytes, MemoryKind::kDevice, label));
    return absl::OkStatus();
  };
  TF_RETURN_IF_ERROR(allocate(logits_, T * E * sizeof(float), "router logits"));
  for (MicroBatch& mb : micro_batches_) {
    TF_RETURN_IF_ERROR(allocate(mb.expert_idx, T * K * sizeof(int32_t), "expert indices"));
    TF_RETURN_IF_ERROR(allocate(mb.expert_weight, T * K * sizeof(float), "expert weights"));
  }
  TF_RETURN_IF_ERROR(allocate(bad_tokens_, sizeof(int64_t), "bad token count"));
  TF_RETURN_IF_ERROR(
      allocate(rows_per_slot_, config_.num_moe_layers() * num_slots_ * sizeof(int64_t), "rows per slot"));
  TF_ASSIGN_OR_RETURN(std::unique_ptr<Stream> stream, device_.CreateStream());
  stream->Fill(bad_tokens_.data(), 0, bad_tokens_.num_bytes());
  if (rows_per_slot_.num_bytes() > 0) stream->Fill(rows_per_slot_.data(), 0, rows_per_slot_.num_bytes());
  return stream->Synchronize();
}

absl::Status MoeLayer::Begin(Stream& stream, const CallSite& site, int micro_batch, int moe_idx,
                             const MoeWeights& weights, const Batch& batch) {
  MicroBatch& mb = micro_batches_[micro_batch];
  ++stats_.num_calls;
  mb.batch = batch;
  Route(stream, weights, mb);
  TF_RETURN_IF_ERROR(overflow_->Run(stream, At(site, "overflow"), moe_idx, mb.routing));
  mb.round = 0;
  mb.num_rounds = std::max<int64_t>(1, (batch.max_tokens_per_rank + tokens_per_round_ - 1) / tokens_per_round_);
  return BeginRound(stream, site, mb);
}

absl::Status MoeLayer::Compute(Stream& stream, const CallSite& site, int micro_batch, int moe_idx,
                               const MoeWeights& weights) {
  MicroBatch& mb = micro_batches_[micro_batch];
  for (;;) {
    TF_ASSIGN_OR_RETURN(const ExpertRows rows, mb.exchange->FinishDispatch(stream, At(site, "dispatch")));
    TF_ASSIGN_OR_RETURN(const FloatMatrix expert_out, mb.exchange->ExpertOut());
    TF_RETURN_IF_ERROR(RunExperts(stream, moe_idx, weights, rows, expert_out));
    TF_RETURN_IF_ERROR(mb.exchange->BeginCombine(stream, At(site, "combine")));
    if (mb.round + 1 == mb.num_rounds) return absl::OkStatus();
    TF_RETURN_IF_ERROR(FinishRound(stream, site, mb));
    ++mb.round;
    TF_RETURN_IF_ERROR(BeginRound(stream, site, mb));
  }
}

absl::Status MoeLayer::Finish(Stream& stream, const CallSite& site, int micro_batch) {
  return FinishRound(stream, site, micro_batches_[micro_batch]);
}

// A round takes the tokens [begin, end) of every rank; sums are by token, so that rounds change no bit.
template <class T>
MatrixView<T> MoeLayer::RoundRows(const MicroBatch& mb, MatrixView<T> m) const {
  const int64_t begin = std::min(m.rows, mb.round * tokens_per_round_);
  m.rows = mb.round + 1 == mb.num_rounds ? m.rows - begin : std::min(m.rows - begin, tokens_per_round_);
  if (m.data != nullptr) m.data += begin * m.stride;
  return m;
}

absl::Status MoeLayer::BeginRound(Stream& stream, const CallSite& site, MicroBatch& mb) {
  mb.exchange =
      &mb.exchanges.For(std::min(tokens_per_round_, mb.batch.max_tokens_per_rank - mb.round * tokens_per_round_));
  const Routing routing{RoundRows(mb, mb.routing.expert_idx), RoundRows(mb, mb.routing.weight),
                        RoundRows(mb, mb.routing.location)};
  TF_RETURN_IF_ERROR(mb.exchange->Plan(stream, At(site, "plan"), routing, placement_));
  const ExchangePlan* const plan = mb.exchange->host_plan();
  if (options_.moe.on_plan && plan != nullptr) options_.moe.on_plan(At(site, "plan"), *plan);
  return mb.exchange->BeginDispatch(stream, At(site, "dispatch"), RoundRows(mb, mb.batch.x));
}

absl::Status MoeLayer::FinishRound(Stream& stream, const CallSite& site, MicroBatch& mb) {
  return mb.exchange->FinishCombine(stream, At(site, "combine"), RoundRows(mb, mb.routing.weight),
                                    RoundRows(mb, mb.batch.out));
}

void MoeLayer::Route(Stream& stream, const MoeWeights& weights, MicroBatch& mb) {
  const ScopedTimer timer(stats_.route_seconds);
  const MatrixView<const float> x = mb.batch.x;
  const int64_t T = x.rows;
  const auto logits = MakeMatrix<float>(logits_.data(), T, config_.n_routed_experts);
  mb.routing = {MakeMatrix<int32_t>(mb.expert_idx.data(), T, config_.num_experts_per_tok),
                MakeMatrix<float>(mb.expert_weight.data(), T, config_.num_experts_per_tok)};
  // The router's product is f32 in every compute mode, as in DeepSeek-V3.
  MatMul(stream, {.x = x.data,
                  .x_stride = x.stride,
                  .num_rows = T,
                  .w = weights.router,
                  .y = logits.data,
                  .y_stride = logits.stride});
  RouteArgs args;
  args.logits = logits;
  args.bias = weights.e_score_correction_bias;
  args.scoring = Scoring::kSigmoid;
  args.renormalise = config_.norm_topk_prob ? Renormalise::kYes : Renormalise::kNo;
  args.group_score = GroupScore::kSumOfTwoLargest;
  args.num_groups = static_cast<int32_t>(config_.n_group);
  args.groups_kept = static_cast<int32_t>(config_.topk_group);
  args.top_k = static_cast<int32_t>(config_.num_experts_per_tok);
  args.scaling = static_cast<float>(config_.routed_scaling_factor);
  args.out = mb.routing;
  args.choice = overflow_->choice(T);
  args.num_bad_tokens = bad_tokens_.as<int64_t>();
  tokenferry::Route(stream, args);
}

absl::Status MoeLayer::RunExperts(Stream& stream, int moe_idx, const MoeWeights& weights, const ExpertRows& rows,
                                  FloatMatrix out) {
  const ScopedTimer timer(stats_.experts_seconds);
  if (num_slots_ > 0) {
    CountRows(stream, {rows.slot_offsets, num_slots_, rows_per_slot_.as<int64_t>() + moe_idx * num_slots_});
  }
  if (options_.moe.overflow.padding == Padding::kCapacity) return RunPadded(stream, weights, rows, out);
  return RunFfn(stream, weights, rows, out);
}

absl::Status MoeLayer::RunFfn(Stream& stream, const MoeWeights& weights, const ExpertRows& rows, FloatMatrix out) {
  const int64_t I = config_.moe_intermediate_size;
  TF_RETURN_IF_ERROR(
      expert_scratch_.Reserve(device_, rows.max_selections * 2 * I * static_cast<int64_t>(sizeof(float))));
  ExpertFfn(stream, {.rows = rows,
                     .num_slots = num_slots_,
                     .intermediate = I,
                     .gate = weights.gate.array(),
                     .up = weights.up.array(),
                     .down = weights.down.array(),
                     .scratch = expert_scratch_.as<float>(),
                     .out = out,
                     .compute = options_.compute});
  return absl::OkStatus();
}

// Every slot computes `capacity` rows: the shapes of all launches depend on the number of tokens alone.
absl::Status MoeLayer::RunPadded(Stream& stream, const MoeWeights& weights, const ExpertRows& rows, FloatMatrix out) {
  const int64_t C = overflow_->capacity(), S = num_slots_, n = S * C;
  TF_RETURN_IF_ERROR(padded_rows_.Reserve(device_, n * rows.hidden * DTypeBytes(rows.dtype)));
  TF_RETURN_IF_ERROR(padded_idx_.Reserve(device_, n * static_cast<int64_t>(sizeof(int32_t))));
  TF_RETURN_IF_ERROR(padded_out_.Reserve(device_, n * rows.hidden * out.element_bytes()));
  TF_RETURN_IF_ERROR(padded_offsets_.Reserve(device_, (S + 1) * static_cast<int64_t>(sizeof(int64_t))));
  PadRows(stream, {rows, S, C, padded_rows_.data(), padded_idx_.as<int32_t>(), padded_offsets_.as<int64_t>()});
  const ExpertRows padded{.rows = padded_rows_.data(),
                          .dtype = rows.dtype,
                          .hidden = rows.hidden,
                          .row_stride = rows.hidden,
                          .row_idx = padded_idx_.as<int32_t>(),
                          .slot_offsets = padded_offsets_.as<int64_t>(),
                          .max_selections = n};
  const FloatMatrix padded_out(padded_out_.data(), out.dtype, n, rows.hidden);
  TF_RETURN_IF_ERROR(RunFfn(stream, weights, padded, padded_out));
  UnpadRows(stream, {padded_out, rows.slot_offsets, S, C, out});
  return absl::OkStatus();
}

absl::Status MoeLayer::CheckRouting(Stream& stream, const CallSite& site) {
  int64_t bad = 0;
  stream.CopyToHost(&bad, bad_tokens_.data(), sizeof(bad));
  TF_RETURN_IF_ERROR(stream.Synchronize());
  if (bad == 0) return absl::OkStatus();
  return absl::InternalError(
      absl::StrCat(ToString(At(site, "route")), ": ", bad,
                   " tokens have a NaN router logit: the checkpoint's weights or an earlier layer are broken"));
}

absl::StatusOr<ExchangeStats> MoeLayer::exchange_stats(Stream& stream) const {
  TF_ASSIGN_OR_RETURN(ExchangeStats sum, micro_batches_[0].exchanges.stats(stream));
  for (size_t i = 1; i < micro_batches_.size(); ++i) {
    TF_ASSIGN_OR_RETURN(const ExchangeStats part, micro_batches_[i].exchanges.stats(stream));
    sum += part;
  }
  return sum;
}

absl::StatusOr<MoeStats> MoeLayer::Stats(Stream& stream) const {
  MoeStats stats = stats_;
  stats.overflow = overflow_->counts();
  stats.rows_per_slot.assign(config_.num_moe_layers(), std::vector<int64_t>(num_slots_));
  if (num_slots_ == 0) return stats;
  for (int64_t l = 0; l < config_.num_moe_layers(); ++l) {
    stream.CopyToHost(stats.rows_per_slot[l].data(), rows_per_slot_.as<int64_t>() + l * num_slots_,
                      num_slots_ * sizeof(int64_t));
  }
  TF_RETURN_IF_ERROR(stream.Synchronize());
  return stats;
}

}  // namespace tokenferry

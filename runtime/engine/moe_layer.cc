#include "runtime/engine/moe_layer.h"

#include "absl/time/clock.h"
#include "core/kernels/matmul.h"
#include "experts/expert_ffn.h"
#include "experts/padded_rows.h"
#include "experts/router.h"

namespace tokenferry {
namespace {

CallSite At(CallSite site, const char* phase) {
  site.phase = phase;
  return site;
}

class Stopwatch {
 public:
  explicit Stopwatch(double& seconds) : seconds_(seconds), start_(absl::GetCurrentTimeNanos()) {}
  ~Stopwatch() { seconds_ += static_cast<double>(absl::GetCurrentTimeNanos() - start_) * 1e-9; }

 private:
  double& seconds_;
  int64_t start_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<MoeLayer>> MoeLayer::Create(Transport& transport, Device& device,
                                                           const ModelConfig& config, const Placement& placement,
                                                           const MoeOptions& options) {
  std::unique_ptr<MoeLayer> layer(new MoeLayer(transport, device, config, placement, options));
  TF_RETURN_IF_ERROR(layer->AllocateScratch());
  const OverflowStageOptions overflow{.policy = options.overflow,
                                      .num_layers = static_cast<int>(config.num_moe_layers()),
                                      .top_k = static_cast<int>(config.num_experts_per_tok),
                                      .max_tokens = options.max_tokens};
  TF_ASSIGN_OR_RETURN(layer->overflow_, OverflowStage::Create(transport, device, placement, overflow));
  // Rows are rounded to bf16 anyway before they meet a weight in kBF16: sending them so loses nothing.
  const DType expert_dtype = options.compute == Compute::kBF16 ? DType::kBF16 : DType::kF32;
  const ExchangeOptions exchange{.hidden = config.hidden_size,
                                 .row_dtype = options.dispatch_dtype.value_or(expert_dtype),
                                 .expert_dtype = expert_dtype,
                                 .output_dtype = options.combine_dtype,
                                 .path = options.path,
                                 .reduction = options.reduction,
                                 .on_choice = options.on_path,
                                 .max_tokens = options.max_tokens,
                                 .max_top_k = static_cast<int>(config.num_experts_per_tok)};
  TF_ASSIGN_OR_RETURN(layer->exchange_, CreateExchange(transport, device, exchange));
  return layer;
}

MoeLayer::MoeLayer(Transport& transport, Device& device, const ModelConfig& config, const Placement& placement,
                   const MoeOptions& options)
    : transport_(transport), device_(device), config_(config), placement_(placement), options_(options) {
  const int num_layers = config.num_moe_layers();
  stats_.rows_per_slot.assign(num_layers, std::vector<int64_t>(placement.num_local_slots(transport.rank()), 0));
}

absl::Status MoeLayer::AllocateScratch() {
  const int64_t T = options_.max_tokens, E = config_.n_routed_experts, K = config_.num_experts_per_tok;
  const auto allocate = [&](Buffer& buffer, size_t num_bytes, absl::string_view label) -> absl::Status {
    TF_ASSIGN_OR_RETURN(buffer, device_.Allocate(num_bytes, MemoryKind::kDevice, label));
    return absl::OkStatus();
  };
  TF_RETURN_IF_ERROR(allocate(logits_, T * E * sizeof(float), "router logits"));
  TF_RETURN_IF_ERROR(allocate(expert_idx_, T * K * sizeof(int32_t), "expert indices"));
  TF_RETURN_IF_ERROR(allocate(expert_weight_, T * K * sizeof(float), "expert weights"));
  TF_RETURN_IF_ERROR(allocate(bad_tokens_, sizeof(int64_t), "bad token count"));
  TF_ASSIGN_OR_RETURN(std::unique_ptr<Stream> stream, device_.CreateStream());
  stream->Fill(bad_tokens_.data(), 0, bad_tokens_.num_bytes());
  return stream->Synchronize();
}

absl::Status MoeLayer::Run(Stream& stream, const CallSite& site, int moe_idx, const MoeWeights& weights,
                           MatrixView<const float> x, MatrixView<float> out) {
  Route(stream, weights, x);
  TF_RETURN_IF_ERROR(overflow_->Run(stream, At(site, "overflow"), moe_idx, routing_));
  TF_ASSIGN_OR_RETURN(const ExchangePlan* plan, exchange_->Plan(stream, At(site, "plan"), routing_, placement_));
  if (options_.on_plan) options_.on_plan(At(site, "plan"), *plan);
  TF_ASSIGN_OR_RETURN(const ExpertRows rows, exchange_->Dispatch(stream, At(site, "dispatch"), *plan, x));
  TF_ASSIGN_OR_RETURN(const FloatMatrix expert_out, exchange_->ExpertOut(*plan));
  TF_RETURN_IF_ERROR(RunExperts(stream, moe_idx, weights, rows, expert_out));
  return exchange_->Combine(stream, At(site, "combine"), *plan, routing_.weight, out);
}

void MoeLayer::Route(Stream& stream, const MoeWeights& weights, MatrixView<const float> x) {
  Stopwatch watch(stats_.route_seconds);
  const int64_t T = x.rows;
  const auto logits = MakeMatrix<float>(logits_.data(), T, config_.n_routed_experts);
  routing_ = {MakeMatrix<int32_t>(expert_idx_.data(), T, config_.num_experts_per_tok),
              MakeMatrix<float>(expert_weight_.data(), T, config_.num_experts_per_tok)};
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
  args.out = routing_;
  args.choice = overflow_->choice(T);
  args.num_bad_tokens = bad_tokens_.as<int64_t>();
  tokenferry::Route(stream, args);
}

absl::Status MoeLayer::RunExperts(Stream& stream, int moe_idx, const MoeWeights& weights, const ExpertRows& rows,
                                  FloatMatrix out) {
  Stopwatch watch(stats_.experts_seconds);
  std::vector<int64_t>& rows_per_slot = stats_.rows_per_slot[moe_idx];
  for (size_t s = 0; s < rows_per_slot.size(); ++s) {
    rows_per_slot[s] += (*rows.slot_offsets_host)[s + 1] - (*rows.slot_offsets_host)[s];
  }
  if (options_.overflow.padding == Padding::kCapacity) return RunPadded(stream, moe_idx, weights, rows, out);
  return RunFfn(stream, moe_idx, weights, rows, out);
}

absl::Status MoeLayer::RunFfn(Stream& stream, int moe_idx, const MoeWeights& weights, const ExpertRows& rows,
                              FloatMatrix out) {
  const int64_t I = config_.moe_intermediate_size;
  TF_RETURN_IF_ERROR(
      expert_scratch_.Reserve(device_, rows.num_selections * 2 * I * static_cast<int64_t>(sizeof(float))));
  ExpertFfn(stream, {.rows = rows,
                     .num_slots = static_cast<int64_t>(stats_.rows_per_slot[moe_idx].size()),
                     .intermediate = I,
                     .gate = weights.gate.device,
                     .up = weights.up.device,
                     .down = weights.down.device,
                     .scratch = expert_scratch_.as<float>(),
                     .out = out,
                     .compute = options_.compute});
  return absl::OkStatus();
}

// Every slot computes `capacity` rows: the shapes of all launches depend on the number of tokens alone.
absl::Status MoeLayer::RunPadded(Stream& stream, int moe_idx, const MoeWeights& weights, const ExpertRows& rows,
                                 FloatMatrix out) {
  const int64_t C = overflow_->capacity(), S = static_cast<int64_t>(stats_.rows_per_slot[moe_idx].size()), n = S * C;
  padded_offsets_host_.resize(S + 1);
  for (int64_t s = 0; s <= S; ++s) padded_offsets_host_[s] = s * C;
  TF_RETURN_IF_ERROR(padded_rows_.Reserve(device_, n * rows.hidden * DTypeBytes(rows.dtype)));
  TF_RETURN_IF_ERROR(padded_idx_.Reserve(device_, n * static_cast<int64_t>(sizeof(int32_t))));
  TF_RETURN_IF_ERROR(padded_out_.Reserve(device_, n * rows.hidden * out.element_bytes()));
  TF_RETURN_IF_ERROR(padded_offsets_.Upload(stream, padded_offsets_host_));
  PadRows(stream, {rows, S, C, padded_rows_.data(), padded_idx_.as<int32_t>()});
  const ExpertRows padded{.rows = padded_rows_.data(),
                          .dtype = rows.dtype,
                          .hidden = rows.hidden,
                          .row_stride = rows.hidden,
                          .row_idx = padded_idx_.as<int32_t>(),
                          .slot_offsets = padded_offsets_.as<int64_t>(),
                          .slot_offsets_host = &padded_offsets_host_,
                          .num_selections = n};
  const FloatMatrix padded_out(padded_out_.data(), out.dtype, n, rows.hidden);
  TF_RETURN_IF_ERROR(RunFfn(stream, moe_idx, weights, padded, padded_out));
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

MoeStats MoeLayer::Stats() const {
  MoeStats stats = stats_;
  stats.overflow = overflow_->counts();
  return stats;
}

}  // namespace tokenferry

#include "runtime/engine/moe_layer.h"

#include <algorithm>
#include <cstring>

#include "absl/time/clock.h"
#include "comm/collectives.h"
#include "core/kernels/matmul.h"
#include "experts/expert_ffn.h"
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
  // Rows are rounded to bf16 anyway before they meet a weight in kBF16: sending them so loses nothing.
  const ExchangeOptions exchange{.hidden = config.hidden_size,
                                 .row_dtype = options.compute == Compute::kBF16 ? DType::kBF16 : DType::kF32,
                                 .path = options.path,
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
  stats_.dropped_per_expert.assign(num_layers, std::vector<int64_t>(config.n_routed_experts, 0));
  stats_.lost_weight_per_layer.assign(num_layers, 0);
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
  TF_RETURN_IF_ERROR(allocate(counts_, 2 * E * sizeof(int32_t), "selection counts"));
  TF_RETURN_IF_ERROR(allocate(dropped_, config_.num_moe_layers() * E * sizeof(int64_t), "dropped counts"));
  TF_RETURN_IF_ERROR(allocate(lost_weight_, config_.num_moe_layers() * E * sizeof(double), "lost weight"));
  TF_ASSIGN_OR_RETURN(std::unique_ptr<Stream> stream, device_.CreateStream());
  for (const Buffer* b : {&bad_tokens_, &dropped_, &lost_weight_}) stream->Fill(b->data(), 0, b->num_bytes());
  return stream->Synchronize();
}

absl::Status MoeLayer::Run(Stream& stream, const CallSite& site, int moe_idx, const MoeWeights& weights,
                           MatrixView<const float> x, MatrixView<float> out) {
  Route(stream, weights, x);
  TF_RETURN_IF_ERROR(DropOverflow(stream, site, moe_idx));
  TF_ASSIGN_OR_RETURN(const ExchangePlan plan, exchange_->Plan(stream, At(site, "plan"), routing_, placement_));
  if (options_.on_plan) options_.on_plan(At(site, "plan"), plan);
  TF_ASSIGN_OR_RETURN(const ExpertRows rows, exchange_->Dispatch(stream, At(site, "dispatch"), plan, x));
  TF_ASSIGN_OR_RETURN(const MatrixView<float> expert_out, exchange_->ExpertOut(plan));
  TF_RETURN_IF_ERROR(RunExperts(stream, moe_idx, weights, rows, expert_out));
  return exchange_->Combine(stream, At(site, "combine"), plan, routing_.weight, out);
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
  args.num_bad_tokens = bad_tokens_.as<int64_t>();
  tokenferry::Route(stream, args);
}

// The capacity counts the tokens of all ranks, and positions run over ranks: the same drops for any number of ranks.
absl::Status MoeLayer::DropOverflow(Stream& stream, const CallSite& site, int moe_idx) {
  if (options_.overflow == Overflow::kDropless) return absl::OkStatus();
  const auto E = static_cast<int32_t>(config_.n_routed_experts);
  CountSelections(stream, {routing_.expert_idx, E, counts_.as<int32_t>()});
  std::vector<int32_t> mine(E + 1);
  stream.CopyToHost(mine.data(), counts_.data(), E * sizeof(int32_t));
  TF_RETURN_IF_ERROR(stream.Synchronize());
  mine[E] = static_cast<int32_t>(routing_.expert_idx.rows);
  const absl::string_view bytes(reinterpret_cast<const char*>(mine.data()), mine.size() * sizeof(int32_t));
  TF_ASSIGN_OR_RETURN(const std::vector<std::string> all, AllGather(transport_, At(site, "capacity counts"), bytes));
  std::vector<int32_t> before(E, 0), theirs(E + 1);
  int64_t num_tokens = 0;
  for (int r = 0; r < transport_.num_ranks(); ++r) {
    if (all[r].size() != bytes.size()) {
      return absl::DataLossError(absl::StrCat(ToString(At(site, "capacity counts")), ": rank ", r, " sent ",
                                              all[r].size(), " bytes of counts, expected ", bytes.size()));
    }
    std::memcpy(theirs.data(), all[r].data(), bytes.size());
    num_tokens += theirs[E];
    for (int e = 0; r < transport_.rank().value && e < E; ++e) before[e] += theirs[e];
  }
  int32_t* taken_before = counts_.as<int32_t>() + E;
  stream.CopyToDevice(taken_before, before.data(), E * sizeof(int32_t));
  ApplyCapacity(stream,
                {routing_, E,
                 ExpertCapacity(options_.capacity_factor, static_cast<int>(config_.num_experts_per_tok), num_tokens, E),
                 taken_before, dropped_.as<int64_t>() + moe_idx * E, lost_weight_.as<double>() + moe_idx * E});
  return absl::OkStatus();
}

absl::Status MoeLayer::RunExperts(Stream& stream, int moe_idx, const MoeWeights& weights, const ExpertRows& rows,
                                  MatrixView<float> out) {
  Stopwatch watch(stats_.experts_seconds);
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
                     .out = out.data,
                     .compute = options_.compute});
  for (size_t s = 0; s < stats_.rows_per_slot[moe_idx].size(); ++s) {
    stats_.rows_per_slot[moe_idx][s] += (*rows.slot_offsets_host)[s + 1] - (*rows.slot_offsets_host)[s];
  }
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

absl::StatusOr<MoeStats> MoeLayer::Stats(Stream& stream) {
  std::vector<double> lost(lost_weight_.num_bytes() / sizeof(double));
  std::vector<int64_t> dropped(dropped_.num_bytes() / sizeof(int64_t));
  stream.CopyToHost(lost.data(), lost_weight_.data(), lost_weight_.num_bytes());
  stream.CopyToHost(dropped.data(), dropped_.data(), dropped_.num_bytes());
  TF_RETURN_IF_ERROR(stream.Synchronize());
  MoeStats stats = stats_;
  const int64_t E = config_.n_routed_experts;
  for (size_t l = 0; l < stats.dropped_per_expert.size(); ++l) {
    std::copy_n(dropped.begin() + l * E, E, stats.dropped_per_expert[l].begin());
    for (int64_t e = 0; e < E; ++e) stats.lost_weight_per_layer[l] += lost[l * E + e];
  }
  return stats;
}

}  // namespace tokenferry

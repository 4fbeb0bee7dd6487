#include "bench/moe/timed_layer.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "bench/measure/call_sites.h"
#include "comm/transport/collectives.h"

namespace tokenferry {
namespace {

constexpr uint64_t kLayerInputStream = (1 << 30) + 1;

}  // namespace

absl::StatusOr<std::unique_ptr<TimedLayer>> TimedLayer::Create(const BenchContext& context, MoeLayer& layer,
                                                               const RandomLayer& random, BenchRouterKind router,
                                                               int top_k) {
  std::unique_ptr<TimedLayer> timed(new TimedLayer(context, layer, random));
  TF_ASSIGN_OR_RETURN(timed->router_, BenchRouter::Create(context, layer, random, router, top_k));
  TF_RETURN_IF_ERROR(timed->Allocate());
  return timed;
}

absl::Status TimedLayer::Allocate() {
  const int64_t T = random_.shape.max_tokens, H = random_.shape.hidden;
  TF_ASSIGN_OR_RETURN(stream_, context_.device.CreateStream());
  TF_ASSIGN_OR_RETURN(timer_, StreamTimer::Create(context_.device, /*num_points=*/6));
  const std::vector<float> x = RandomFloats(T * H, kLayerInputStream, context_.transport.rank().value * T * H);
  TF_ASSIGN_OR_RETURN(x_, UploadNew(*stream_, x.data(), x.size() * sizeof(float), "bench: layer's tokens"));
  TF_ASSIGN_OR_RETURN(out_, context_.device.Allocate(T * H * sizeof(float), MemoryKind::kDevice, "bench: results"));
  step_.weights = &random_.weights;
  step_.x = MakeMatrix<const float>(x_.data(), T, H);
  // They stay there: the layer does not change them.
  TF_ASSIGN_OR_RETURN(const FloatMatrix home, layer_.HomeRows(T, T));
  if (home.dtype == DType::kBF16) {
    std::vector<BF16> rounded(x.size());
    std::transform(x.begin(), x.end(), rounded.begin(), [](float v) { return ToBF16(v); });
    stream_->CopyToDevice(home.data, rounded.data(), rounded.size() * sizeof(BF16));
  } else {
    stream_->CopyToDevice(home.data, x.data(), x.size() * sizeof(float));
  }
  step_.rows = home;
  step_.out = MakeMatrix<float>(out_.data(), T, H);
  step_.max_tokens_per_rank = T;
  host_expert_idx_.resize(T * random_.shape.router.top_k);
  return stream_->Synchronize();
}

absl::StatusOr<MoeSeconds> TimedLayer::TimeCalls() {
  int num_marks = 0;
  const auto mark = [&] { return timer_->Mark(*stream_, num_marks++); };
  TF_RETURN_IF_ERROR(mark());
  TF_RETURN_IF_ERROR(router_->Route(*stream_, step_));
  TF_RETURN_IF_ERROR(mark());
  TF_RETURN_IF_ERROR(layer_.Plan(*stream_, step_));
  TF_RETURN_IF_ERROR(mark());
  TF_RETURN_IF_ERROR(layer_.BeginDispatch(*stream_, step_));
  TF_ASSIGN_OR_RETURN(const ExpertRows rows, layer_.FinishDispatch(*stream_, step_));
  TF_RETURN_IF_ERROR(mark());
  TF_RETURN_IF_ERROR(layer_.Experts(*stream_, step_, rows));
  TF_RETURN_IF_ERROR(mark());
  TF_RETURN_IF_ERROR(layer_.BeginCombine(*stream_, step_));
  TF_RETURN_IF_ERROR(layer_.FinishCombine(*stream_, step_));
  TF_RETURN_IF_ERROR(mark());
  TF_RETURN_IF_ERROR(stream_->Synchronize());
  MoeSeconds seconds;
  int call = 0;
  for (double* const of_call : {&seconds.route, &seconds.plan, &seconds.dispatch, &seconds.experts, &seconds.combine}) {
    TF_ASSIGN_OR_RETURN(*of_call, timer_->Seconds(call, call + 1));
    ++call;
  }
  return seconds;
}

absl::StatusOr<MoeSeconds> TimedLayer::Run() {
  TF_RETURN_IF_ERROR(Barrier(context_.transport, kMeet));
  TF_ASSIGN_OR_RETURN(const MoeSeconds seconds, TimeCalls());
  std::vector<float> results(step_.out.rows * step_.out.cols);
  stream_->CopyToHost(results.data(), out_.data(), results.size() * sizeof(float));
  stream_->CopyToHost(host_expert_idx_.data(), step_.routing.expert_idx.data,
                      host_expert_idx_.size() * sizeof(int32_t));
  TF_RETURN_IF_ERROR(stream_->Synchronize());
  if (first_results_.empty()) first_results_ = results;
  if (results.empty() || std::memcmp(results.data(), first_results_.data(), results.size() * sizeof(float)) == 0) {
    return seconds;
  }
  return absl::DataLossError(
      absl::StrCat("rank ", context_.transport.rank().value, ": a layer's results are not those of its first run"));
}

absl::Status TimedLayer::Verify() {
  TF_RETURN_IF_ERROR(Run().status());
  return AgreeOnStatus(context_.transport, {.phase = "bench: verify"},
                       step_.out.rows == 0 ? absl::OkStatus() : CheckFirstToken());
}

absl::Status TimedLayer::CheckFirstToken() {
  const MoeShape& shape = random_.shape;
  const int64_t H = shape.hidden, K = shape.router.top_k;
  std::vector<float> weight(K), sums(H, 0.0f), output(H);
  stream_->CopyToHost(weight.data(), step_.routing.weight.data, weight.size() * sizeof(float));
  // As the exchange rounds rows that meet bf16 products.
  std::vector<float> x(H);
  stream_->CopyToHost(x.data(), step_.x.data, H * sizeof(float));
  TF_RETURN_IF_ERROR(stream_->Synchronize());
  for (float& v : x) v = shape.compute == Compute::kBF16 ? ToFloat(ToBF16(v)) : v;
  TF_ASSIGN_OR_RETURN(const Buffer row, UploadNew(*stream_, x.data(), H * sizeof(float), "bench: row"));
  const int64_t numbers[] = {0, 1, 0};  // offsets, and row 0
  TF_ASSIGN_OR_RETURN(const Buffer index, UploadNew(*stream_, numbers, sizeof(numbers), "bench: row index"));
  TF_ASSIGN_OR_RETURN(const Buffer scratch, context_.device.Allocate(2 * shape.intermediate * sizeof(float),
                                                                     MemoryKind::kDevice, "bench: scratch"));
  TF_ASSIGN_OR_RETURN(const Buffer out,
                      context_.device.Allocate(H * sizeof(float), MemoryKind::kDevice, "bench: output"));
  std::vector<int> order(K);
  for (int k = 0; k < K; ++k) order[k] = k;
  std::sort(order.begin(), order.end(), [&](int a, int b) { return host_expert_idx_[a] < host_expert_idx_[b]; });
  for (const int k : order) {
    if (host_expert_idx_[k] < 0) continue;  // one that expert choice has not filled
    TF_ASSIGN_OR_RETURN(const RandomExpert expert,
                        RandomExpert::Create(*stream_, shape, random_.dtype, host_expert_idx_[k]));
    const ExpertWeights& w = expert.weights();
    const WeightView matrices[] = {w.gate, w.up, w.down};
    TF_ASSIGN_OR_RETURN(const Buffer views, UploadNew(*stream_, matrices, sizeof(matrices), "bench: views"));
    const WeightView* device_views = views.as<WeightView>();
    ExpertFfn(*stream_, {.rows = {.rows = row.data(),
                                  .hidden = H,
                                  .row_stride = H,
                                  .row_idx = reinterpret_cast<const int32_t*>(index.as<int64_t>() + 2),
                                  .slot_offsets = index.as<int64_t>(),
                                  .max_selections = 1},
                         .num_slots = 1,
                         .intermediate = shape.intermediate,
                         .gate = {w.gate, device_views},
                         .up = {w.up, device_views + 1},
                         .down = {w.down, device_views + 2},
                         .scratch = scratch.as<float>(),
                         .out = MakeMatrix<float>(out.data(), 1, H),
                         .compute = shape.compute});
    stream_->CopyToHost(output.data(), out.data(), H * sizeof(float));
    TF_RETURN_IF_ERROR(stream_->Synchronize());
    for (int64_t c = 0; c < H; ++c) sums[c] = std::fma(weight[k], output[c], sums[c]);
  }
  if (std::memcmp(sums.data(), first_results_.data(), H * sizeof(float)) == 0) return absl::OkStatus();
  return absl::DataLossError("bench moe: the first token's result is not that of its experts run one by one");
}

}  // namespace tokenferry

#include "bench/moe/moe_layer_run.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "bench/alltoall/keyed_hash.h"
#include "bench/alltoall/round_trip.h"
#include "comm/transport/collectives.h"
#include "core/kernels/matmul.h"
#include "experts/router/router.h"

namespace tokenferry {
namespace {

constexpr uint64_t kWeightSeed = 31, kRouterStream = 1 << 30, kHiddenStream = (1 << 30) + 1;
constexpr int32_t kBlock = 128;
constexpr CallSite kMeet{.phase = "bench: meet"};

// Magnitudes below 1, signs and mantissas random.
std::vector<uint64_t> RandomWords(DType dtype, int64_t num_bytes, uint64_t stream) {
  std::vector<uint64_t> words((num_bytes + 7) / 8);
  KeyedRandom random(HashKey(kWeightSeed, stream, 0));
  for (uint64_t& word : words) {
    word = random.Next();
    if (dtype == DType::kBF16) word = (word & 0xBD7FBD7FBD7FBD7Fu) | 0x3C003C003C003C00u;
    if (dtype == DType::kF8E4M3) word &= 0xB7B7B7B7B7B7B7B7u;
    if (dtype == DType::kF32) word = (word & 0x80FFFFFF80FFFFFFu) | 0x3C0000003C000000u;
  }
  return words;
}

std::vector<float> RandomFloats(int64_t size, uint64_t stream, int64_t first) {
  std::vector<float> values(size);
  for (int64_t i = 0; i < size; ++i) {
    values[i] =
        static_cast<float>(static_cast<int32_t>(HashKey(kWeightSeed, stream, first + i) >> 40) - (1 << 23)) * 0x1p-23f;
  }
  return values;
}

absl::Status UploadNew(Stream& stream, const void* data, size_t num_bytes, const char* label, Buffer* buffer) {
  TF_ASSIGN_OR_RETURN(*buffer, stream.device().Allocate(num_bytes, MemoryKind::kDevice, label));
  stream.CopyToDevice(buffer->data(), data, num_bytes);
  return absl::OkStatus();
}

int64_t NumScales(int64_t rows, int64_t cols) {
  return ((rows + kBlock - 1) / kBlock) * ((cols + kBlock - 1) / kBlock);
}

}  // namespace

int64_t RandomExpert::NumBytes(const MoeShape& shape) {
  const int64_t H = shape.hidden, I = shape.intermediate;
  const int64_t scales = shape.weight_dtype == DType::kF8E4M3 ? 4 * (2 * NumScales(I, H) + NumScales(H, I)) : 0;
  return 3 * H * I * DTypeBytes(shape.weight_dtype) + scales;
}

absl::StatusOr<RandomExpert> RandomExpert::Create(Stream& stream, const MoeShape& shape, int expert) {
  RandomExpert made;
  const int64_t H = shape.hidden, I = shape.intermediate;
  const std::vector<float> scales(std::max(NumScales(I, H), NumScales(H, I)), 0.0625f);
  if (shape.weight_dtype == DType::kF8E4M3) {
    TF_RETURN_IF_ERROR(UploadNew(stream, scales.data(), scales.size() * sizeof(float), "bench: scales", &made.scales_));
  }
  WeightView* views[] = {&made.weights_.gate, &made.weights_.up, &made.weights_.down};
  for (int i = 0; i < 3; ++i) {
    WeightView& view = *views[i];
    view = {.format = {.dtype = shape.weight_dtype}, .rows = i == 2 ? H : I, .cols = i == 2 ? I : H};
    const int64_t num_bytes = H * I * DTypeBytes(shape.weight_dtype);
    const std::vector<uint64_t> words = RandomWords(shape.weight_dtype, num_bytes, int64_t{3} * expert + i);
    TF_RETURN_IF_ERROR(UploadNew(stream, words.data(), num_bytes, "bench: weights", &made.memory_[i]));
    TF_RETURN_IF_ERROR(stream.Synchronize());
    view.data = made.memory_[i].data();
    if (shape.weight_dtype != DType::kF8E4M3) continue;
    view.format = F8BlockWeights::Of(kBlock, kBlock);
    view.scales = made.scales_.as<float>();
    view.scale_stride = (view.cols + kBlock - 1) / kBlock;
  }
  return made;
}

absl::StatusOr<std::unique_ptr<MoeLayerWeights>> MoeLayerWeights::Create(const BenchContext& context,
                                                                         const MoeShape& shape) {
  auto layer = std::make_unique<MoeLayerWeights>();
  layer->shape = shape;
  layer->placement = Placement::Linear(shape.num_experts, context.transport.num_ranks());
  TF_ASSIGN_OR_RETURN(std::unique_ptr<Stream> stream, context.device.CreateStream());
  std::vector<WeightView> views[3];
  for (const int expert : layer->placement.local_experts(context.transport.rank())) {
    TF_ASSIGN_OR_RETURN(RandomExpert made, RandomExpert::Create(*stream, shape, expert));
    layer->experts.push_back(std::move(made));
    const ExpertWeights& w = layer->experts.back().weights();
    views[0].push_back(w.gate), views[1].push_back(w.up), views[2].push_back(w.down);
  }
  const size_t n = views[0].size();
  for (int i = 1; i < 3; ++i) views[0].insert(views[0].end(), views[i].begin(), views[i].end());
  TF_RETURN_IF_ERROR(
      UploadNew(*stream, views[0].data(), views[0].size() * sizeof(WeightView), "bench: views", &layer->views_));
  if (n > 0) {
    const auto* device_views = layer->views_.as<WeightView>();
    layer->gate = {views[0][0], device_views};
    layer->up = {views[0][n], device_views + n};
    layer->down = {views[0][2 * n], device_views + 2 * n};
  }
  const std::vector<float> router = RandomFloats(shape.num_experts * shape.hidden, kRouterStream, 0);
  TF_RETURN_IF_ERROR(
      UploadNew(*stream, router.data(), router.size() * sizeof(float), "bench: router", &layer->router_memory_));
  layer->router = {.format = {}, .data = layer->router_memory_.data(), .rows = shape.num_experts, .cols = shape.hidden};
  TF_RETURN_IF_ERROR(stream->Synchronize());
  return layer;
}

absl::StatusOr<std::unique_ptr<MoeLayerRun>> MoeLayerRun::Create(const BenchContext& context,
                                                                 const MoeLayerWeights& weights, Exchange& exchange,
                                                                 int64_t num_tokens, Compute compute) {
  std::unique_ptr<MoeLayerRun> run(new MoeLayerRun(context, weights, exchange, compute));
  TF_RETURN_IF_ERROR(run->Allocate(num_tokens));
  return run;
}

absl::Status MoeLayerRun::Allocate(int64_t num_tokens) {
  const int64_t T = num_tokens, H = weights_.shape.hidden, E = weights_.shape.num_experts, K = weights_.shape.top_k;
  TF_ASSIGN_OR_RETURN(stream_, context_.device.CreateStream());
  // Four bytes each: hidden, out, logits, weights, experts; then a counter.
  TF_ASSIGN_OR_RETURN(memory_, context_.device.Allocate(4 * T * (2 * H + E + 2 * K) + 64, MemoryKind::kDevice,
                                                        "bench: layer's tokens"));
  float* next = memory_.as<float>() + 16;
  const auto take = [&next](int64_t rows, int64_t cols) {
    const auto view = MakeMatrix<float>(next, rows, cols);
    next += rows * cols;
    return view;
  };
  hidden_ = take(T, H), out_ = take(T, H), logits_ = take(T, E);
  routing_.weight = take(T, K);
  routing_.expert_idx = MakeMatrix<int32_t>(take(T, K).data, T, K);
  const std::vector<float> hidden = RandomFloats(T * H, kHiddenStream, context_.transport.rank().value * T * H);
  stream_->CopyToDevice(hidden_.data, hidden.data(), hidden.size() * sizeof(float));
  stream_->Fill(memory_.data(), 0, 64);
  host_expert_idx_.resize(T * K);
  return stream_->Synchronize();
}

void MoeLayerRun::Route() {
  MatMul(*stream_, {.x = hidden_.data,
                    .x_stride = hidden_.stride,
                    .num_rows = hidden_.rows,
                    .w = weights_.router,
                    .y = logits_.data,
                    .y_stride = logits_.stride});
  RouteArgs args;
  args.logits = logits_;
  args.renormalise = Renormalise::kYes;
  args.top_k = weights_.shape.top_k;
  args.out = routing_;
  args.num_bad_tokens = memory_.as<int64_t>();
  tokenferry::Route(*stream_, args);
}

absl::Status MoeLayerRun::RunExperts(const ExpertRows& rows, FloatMatrix out) {
  const size_t scratch_bytes = rows.max_selections * 2 * weights_.shape.intermediate * sizeof(float);
  if (scratch_.num_bytes() < scratch_bytes) {
    scratch_ = Buffer();
    TF_ASSIGN_OR_RETURN(scratch_, context_.device.Allocate(scratch_bytes, MemoryKind::kDevice, "bench: scratch"));
  }
  ExpertFfn(*stream_, {.rows = rows,
                       .num_slots = static_cast<int64_t>(weights_.experts.size()),
                       .intermediate = weights_.shape.intermediate,
                       .gate = weights_.gate,
                       .up = weights_.up,
                       .down = weights_.down,
                       .scratch = scratch_.as<float>(),
                       .out = out,
                       .compute = compute_});
  return stream_->Synchronize();
}

absl::StatusOr<MoeSeconds> MoeLayerRun::Run() {
  MoeSeconds seconds;
  TF_RETURN_IF_ERROR(Barrier(context_.transport, kMeet));
  double start = MonotonicSeconds();
  const auto lap = [&start](double* phase) {
    const double now = MonotonicSeconds();
    *phase = now - start;
    start = now;
  };
  Route();
  TF_RETURN_IF_ERROR(stream_->Synchronize());
  lap(&seconds.route);
  TF_RETURN_IF_ERROR(exchange_.Plan(*stream_, {"plan"}, routing_, weights_.placement));
  lap(&seconds.plan);
  TF_ASSIGN_OR_RETURN(const ExpertRows rows, exchange_.Dispatch(*stream_, {"dispatch"}, hidden_));
  TF_RETURN_IF_ERROR(stream_->Synchronize());
  lap(&seconds.dispatch);
  TF_ASSIGN_OR_RETURN(const FloatMatrix expert_out, exchange_.ExpertOut());
  TF_RETURN_IF_ERROR(RunExperts(rows, expert_out));
  lap(&seconds.experts);
  TF_RETURN_IF_ERROR(exchange_.Combine(*stream_, {"combine"}, routing_.weight, out_));
  TF_RETURN_IF_ERROR(stream_->Synchronize());
  lap(&seconds.combine);

  std::vector<float> results(out_.rows * out_.cols);
  stream_->CopyToHost(results.data(), out_.data, results.size() * sizeof(float));
  stream_->CopyToHost(host_expert_idx_.data(), routing_.expert_idx.data, host_expert_idx_.size() * sizeof(int32_t));
  TF_RETURN_IF_ERROR(stream_->Synchronize());
  if (first_results_.empty()) first_results_ = results;
  if (results.empty() || std::memcmp(results.data(), first_results_.data(), results.size() * sizeof(float)) == 0) {
    return seconds;
  }
  return absl::DataLossError(
      absl::StrCat("rank ", context_.transport.rank().value, ": a layer's results are not those of its first run"));
}

absl::Status MoeLayerRun::Verify() {
  TF_RETURN_IF_ERROR(Run().status());
  return AgreeOnStatus(context_.transport, {.phase = "bench: verify"},
                       out_.rows == 0 ? absl::OkStatus() : CheckFirstToken());
}

absl::Status MoeLayerRun::CheckFirstToken() {
  const MoeShape& shape = weights_.shape;
  const int64_t H = shape.hidden;
  std::vector<float> weight(shape.top_k), sums(H, 0.0f), output(H);
  stream_->CopyToHost(weight.data(), routing_.weight.data, weight.size() * sizeof(float));
  Buffer row, scratch, out, index;
  // As the exchange rounds rows that meet bf16 products.
  std::vector<float> x(H);
  stream_->CopyToHost(x.data(), hidden_.data, H * sizeof(float));
  TF_RETURN_IF_ERROR(stream_->Synchronize());
  for (float& v : x) v = compute_ == Compute::kBF16 ? ToFloat(ToBF16(v)) : v;
  TF_RETURN_IF_ERROR(UploadNew(*stream_, x.data(), H * sizeof(float), "bench: row", &row));
  const int64_t numbers[] = {0, 1, 0};  // offsets, and row 0
  TF_RETURN_IF_ERROR(UploadNew(*stream_, numbers, sizeof(numbers), "bench: row index", &index));
  TF_ASSIGN_OR_RETURN(
      scratch, context_.device.Allocate(2 * shape.intermediate * sizeof(float), MemoryKind::kDevice, "bench: scratch"));
  TF_ASSIGN_OR_RETURN(out, context_.device.Allocate(H * sizeof(float), MemoryKind::kDevice, "bench: output"));
  std::vector<int> order(shape.top_k);
  for (int k = 0; k < shape.top_k; ++k) order[k] = k;
  std::sort(order.begin(), order.end(), [&](int a, int b) { return host_expert_idx_[a] < host_expert_idx_[b]; });
  const std::vector<int64_t> offsets = {0, 1};
  for (const int k : order) {
    TF_ASSIGN_OR_RETURN(const RandomExpert expert, RandomExpert::Create(*stream_, shape, host_expert_idx_[k]));
    const ExpertWeights& w = expert.weights();
    const WeightView matrices[] = {w.gate, w.up, w.down};
    Buffer views;
    TF_RETURN_IF_ERROR(UploadNew(*stream_, matrices, sizeof(matrices), "bench: views", &views));
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
                         .compute = compute_});
    stream_->CopyToHost(output.data(), out.data(), H * sizeof(float));
    TF_RETURN_IF_ERROR(stream_->Synchronize());
    for (int64_t c = 0; c < H; ++c) sums[c] = std::fma(weight[k], output[c], sums[c]);
  }
  if (std::memcmp(sums.data(), first_results_.data(), H * sizeof(float)) == 0) return absl::OkStatus();
  return absl::DataLossError("bench moe: the first token's result is not that of its experts run one by one");
}

}  // namespace tokenferry

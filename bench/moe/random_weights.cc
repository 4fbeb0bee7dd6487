#include "bench/moe/random_weights.h"

#include <algorithm>

#include "core/keyed_hash.h"

namespace tokenferry {
namespace {

constexpr uint64_t kWeightSeed = 31, kRouterStream = 1 << 30;
constexpr int32_t kBlock = 128;

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

int64_t NumScales(int64_t rows, int64_t cols) {
  return ((rows + kBlock - 1) / kBlock) * ((cols + kBlock - 1) / kBlock);
}

}  // namespace

std::vector<float> RandomFloats(int64_t size, uint64_t stream, int64_t first) {
  std::vector<float> values(size);
  for (int64_t i = 0; i < size; ++i) {
    values[i] =
        static_cast<float>(static_cast<int32_t>(HashKey(kWeightSeed, stream, first + i) >> 40) - (1 << 23)) * 0x1p-23f;
  }
  return values;
}

absl::StatusOr<Buffer> UploadNew(Stream& stream, const void* data, size_t num_bytes, const char* label) {
  TF_ASSIGN_OR_RETURN(Buffer buffer, stream.device().Allocate(num_bytes, MemoryKind::kDevice, label));
  stream.CopyToDevice(buffer.data(), data, num_bytes);
  return buffer;
}

int64_t RandomExpert::NumBytes(const MoeShape& shape, DType dtype) {
  const int64_t H = shape.hidden, I = shape.intermediate;
  const int64_t scales = dtype == DType::kF8E4M3 ? 4 * (2 * NumScales(I, H) + NumScales(H, I)) : 0;
  return 3 * H * I * DTypeBytes(dtype) + scales;
}

absl::StatusOr<RandomExpert> RandomExpert::Create(Stream& stream, const MoeShape& shape, DType dtype, int expert) {
  RandomExpert made;
  const int64_t H = shape.hidden, I = shape.intermediate;
  const std::vector<float> scales(std::max(NumScales(I, H), NumScales(H, I)), 0.0625f);
  if (dtype == DType::kF8E4M3) {
    TF_ASSIGN_OR_RETURN(made.scales_, UploadNew(stream, scales.data(), scales.size() * sizeof(float), "bench: scales"));
  }
  WeightView* views[] = {&made.weights_.gate, &made.weights_.up, &made.weights_.down};
  for (int i = 0; i < 3; ++i) {
    WeightView& view = *views[i];
    view = {.format = {.dtype = dtype}, .rows = i == 2 ? H : I, .cols = i == 2 ? I : H};
    const int64_t num_bytes = H * I * DTypeBytes(dtype);
    const std::vector<uint64_t> words = RandomWords(dtype, num_bytes, int64_t{3} * expert + i);
    TF_ASSIGN_OR_RETURN(made.memory_[i], UploadNew(stream, words.data(), num_bytes, "bench: weights"));
    TF_RETURN_IF_ERROR(stream.Synchronize());
    view.data = made.memory_[i].data();
    if (dtype != DType::kF8E4M3) continue;
    view.format = F8BlockWeights::Of(kBlock, kBlock);
    view.scales = made.scales_.as<float>();
    view.scale_stride = (view.cols + kBlock - 1) / kBlock;
  }
  return made;
}

absl::StatusOr<std::unique_ptr<RandomLayer>> RandomLayer::Create(const BenchContext& context, const MoeShape& shape,
                                                                 DType dtype) {
  auto layer = std::make_unique<RandomLayer>();
  layer->shape = shape;
  layer->dtype = dtype;
  layer->placement = Placement::Linear(shape.num_experts, context.transport.num_ranks());
  TF_ASSIGN_OR_RETURN(std::unique_ptr<Stream> stream, context.device.CreateStream());
  std::vector<WeightView> views[3];
  for (const int expert : layer->placement.local_experts(context.transport.rank())) {
    TF_ASSIGN_OR_RETURN(RandomExpert made, RandomExpert::Create(*stream, shape, dtype, expert));
    layer->experts.push_back(std::move(made));
    const ExpertWeights& w = layer->experts.back().weights();
    views[0].push_back(w.gate), views[1].push_back(w.up), views[2].push_back(w.down);
  }
  const size_t n = views[0].size();
  for (int i = 1; i < 3; ++i) views[0].insert(views[0].end(), views[i].begin(), views[i].end());
  TF_ASSIGN_OR_RETURN(layer->views,
                      UploadNew(*stream, views[0].data(), views[0].size() * sizeof(WeightView), "bench: views"));
  if (n > 0) {
    const auto* device_views = layer->views.as<WeightView>();
    layer->weights.experts = {
        {views[0][0], device_views}, {views[0][n], device_views + n}, {views[0][2 * n], device_views + 2 * n}};
  }
  const std::vector<float> router = RandomFloats(shape.num_experts * shape.hidden, kRouterStream, 0);
  TF_ASSIGN_OR_RETURN(layer->router, UploadNew(*stream, router.data(), router.size() * sizeof(float), "bench: router"));
  layer->weights.router = {.format = {}, .data = layer->router.data(), .rows = shape.num_experts, .cols = shape.hidden};
  TF_RETURN_IF_ERROR(stream->Synchronize());
  return layer;
}

}  // namespace tokenferry

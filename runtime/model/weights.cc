#include "runtime/model/weights.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <string>
#include <tuple>

#include "absl/strings/str_cat.h"
#include "core/check.h"
#include "core/formats/f16.h"
#include "runtime/ops/finite_check.h"

namespace tokenferry {
namespace {

constexpr int64_t kAlignment = 64;                        // of a tensor within its buffer: a cache line
constexpr int64_t kMaxEnqueuedBytes = int64_t{64} << 20;  // copies a device may hold back before it is waited for

int64_t AlignUp(int64_t num_bytes) { return (num_bytes + kAlignment - 1) / kAlignment * kAlignment; }

// One buffer per layer and group.
enum class Group : uint8_t { kEmbedding, kAttention, kFfn, kExperts, kHead };

Group GroupOf(const TensorSpec& spec) {
  switch (spec.part()) {
    case ModelPart::kEmbedding:
      return Group::kEmbedding;
    case ModelPart::kHead:
      return Group::kHead;
    case ModelPart::kRoutedExpert:
      return Group::kExperts;
    case ModelPart::kDenseFfn:
    case ModelPart::kSharedExpert:
    case ModelPart::kRouter:
      return Group::kFfn;
    default:
      return spec.layer < 0 ? Group::kHead : Group::kAttention;
  }
}

const char* GroupName(Group group) {
  constexpr const char* kNames[] = {"embedding", "attention", "ffn", "experts", "head"};
  return kNames[static_cast<int>(group)];
}

using BufferKey = std::tuple<int32_t, Group>;  // layer, group

// A tensor of the checkpoint and where it goes.
struct Piece {
  const TensorSpec* spec;
  const Checkpoint::Tensor* source;
  bool is_scales;
  DType dtype;  // in the file
  bool widen;   // 16 bits in the file, F32 in memory
  BufferKey buffer;
  int64_t offset;     // in the buffer
  int64_t num_bytes;  // in memory
  uint8_t* dst = nullptr;

  // Bytes of the stored tensor that are read for it.
  int64_t source_begin() const { return is_part() ? spec->stored.begin * DTypeBytes(dtype) : 0; }
  int64_t source_bytes() const { return is_part() ? spec->stored.size * DTypeBytes(dtype) : source->info->num_bytes; }
  bool is_part() const { return !is_scales && spec->stored.kind != StoredPart::Kind::kWhole; }
  bool is_transposed() const { return is_part() && spec->stored.kind == StoredPart::Kind::kColumns; }
  bool reads_the_same(const Piece& other) const {
    return source == other.source && source_begin() == other.source_begin() && source_bytes() == other.source_bytes();
  }
};

// What this rank needs, laid out in buffers.
struct Layout {
  std::vector<Piece> pieces;  // per needed tensor: the weight, then its scales if it has any
  std::map<BufferKey, int64_t> buffer_bytes;
  std::vector<int32_t> slot_of_expert;  // -1: not on this rank

  absl::Status Add(const Checkpoint& checkpoint, const TensorSpec& spec, bool is_scales, int64_t num_bytes) {
    const std::string name = is_scales ? spec.scale_name() : spec.name;
    const Checkpoint::Tensor* source = checkpoint.Find(name);
    if (source == nullptr) {
      return absl::InvalidArgumentError(absl::StrCat(checkpoint.dir(), ": tensor '", name, "' of the plan is missing"));
    }
    const DType dtype = is_scales ? DType::kF32 : spec.dtype;
    const bool widen = !is_scales && spec.memory_dtype() != spec.dtype;
    const BufferKey key{spec.layer, GroupOf(spec)};
    int64_t& end = buffer_bytes[key];
    pieces.push_back({&spec, source, is_scales, dtype, widen, key, end, num_bytes});
    end += AlignUp(num_bytes);
    return absl::OkStatus();
  }
};

absl::StatusOr<Layout> MakeLayout(const Checkpoint& checkpoint, const TensorPlan& plan, const LoadOptions& options) {
  Layout layout;
  layout.slot_of_expert.assign(static_cast<size_t>(plan.model.moe.num_experts), -1);
  const auto experts = options.placement->local_experts(options.rank);
  for (size_t slot = 0; slot < experts.size(); ++slot)
    layout.slot_of_expert[experts[slot]] = static_cast<int32_t>(slot);
  for (const TensorSpec& spec : plan.tensors) {
    if (spec.expert >= 0 && layout.slot_of_expert[spec.expert] < 0) continue;
    TF_RETURN_IF_ERROR(layout.Add(checkpoint, spec, /*is_scales=*/false, spec.memory_bytes()));
    if (!spec.has_scales()) continue;
    TF_RETURN_IF_ERROR(layout.Add(checkpoint, spec, /*is_scales=*/true, spec.scale_bytes(plan.model.fp8_block)));
  }
  return layout;
}

absl::Status AllocateBuffers(Device& device, Layout& layout, ModelWeights& weights) {
  std::map<BufferKey, uint8_t*> data;
  for (const auto& [key, num_bytes] : layout.buffer_bytes) {
    const auto& [layer, group] = key;
    const std::string label = layer < 0 ? absl::StrCat("weights: ", GroupName(group))
                                        : absl::StrCat("weights: layer ", layer, " ", GroupName(group));
    TF_ASSIGN_OR_RETURN(Buffer buffer, device.Allocate(static_cast<size_t>(num_bytes), MemoryKind::kDevice, label));
    data[key] = buffer.as<uint8_t>();
    weights.stats.buffer_bytes += num_bytes;
    weights.buffers.push_back(std::move(buffer));
  }
  for (Piece& piece : layout.pieces) piece.dst = data[piece.buffer] + piece.offset;
  return absl::OkStatus();
}

// Streams tensors through a staging buffer into device memory.
class Loader {
 public:
  Loader(const Checkpoint& checkpoint, Stream& stream, Buffer staging, const LoadOptions& options)
      : checkpoint_(checkpoint), stream_(stream), staging_(std::move(staging)), options_(options) {}

  absl::Status Run(const std::vector<Piece>& pieces, LoadStats& stats) {
    std::vector<const Piece*> order;
    for (const Piece& piece : pieces) {
      order.push_back(&piece);
      stats.bytes_kept += piece.num_bytes;
      if (!piece.is_scales) ++stats.num_tensors;
    }
    std::stable_sort(order.begin(), order.end(),
                     [](const Piece* a, const Piece* b) { return OrderKey(*a) < OrderKey(*b); });
    const auto each_range = [&](const std::function<absl::Status(absl::Span<const Piece* const>)>& visit) {
      for (size_t begin = 0, end = 0; begin < order.size(); begin = end) {
        while (end < order.size() && order[end]->reads_the_same(*order[begin])) ++end;
        TF_RETURN_IF_ERROR(visit(absl::MakeConstSpan(order).subspan(begin, end - begin)));
      }
      return absl::OkStatus();
    };
    TF_RETURN_IF_ERROR(each_range([&](absl::Span<const Piece* const> same) {
      bytes_total_ += same[0]->source_bytes();
      return absl::OkStatus();
    }));
    TF_RETURN_IF_ERROR(each_range([&](absl::Span<const Piece* const> same) { return Load(same); }));
    stats.bytes_read = bytes_done_;
    return stream_.Synchronize();
  }

 private:
  // Scales, norms and biases first, since they are quick to find fault with; then everything as it lies in the files.
  static std::tuple<bool, int, int64_t> OrderKey(const Piece& piece) {
    const bool is_large = !piece.is_scales && piece.spec->shape.size() > 1;
    return {is_large, piece.source->shard_idx, piece.source->info->begin + piece.source_begin()};
  }

  // Bytes that are read at a time, so that what is made of them fits beside them in the staging buffer.
  absl::StatusOr<int64_t> ChunkBytes(const Piece& piece) const {
    const auto staging = static_cast<int64_t>(staging_.num_bytes());
    // A widened piece needs three times its stored bytes: itself and its widened copy.
    const int64_t most = staging / (piece.widen ? 16 : piece.is_transposed() ? 8 : 4) * 4;
    if (!piece.is_transposed()) return most;
    const int64_t row_bytes = piece.spec->stored.cols * DTypeBytes(piece.dtype);
    if (row_bytes <= most) return most / row_bytes * row_bytes;
    return absl::ResourceExhaustedError(absl::StrCat("tensor '", piece.spec->name, "' has rows of ", row_bytes,
                                                     " bytes, too long for a staging buffer of ", staging));
  }

  // Pieces that are made of the same bytes.
  absl::Status Load(absl::Span<const Piece* const> pieces) {
    const Piece& first = *pieces[0];
    const int64_t num_bytes = first.source_bytes();
    TF_ASSIGN_OR_RETURN(const int64_t chunk_bytes, ChunkBytes(first));
    for (int64_t offset = 0; offset < num_bytes; offset += chunk_bytes) {
      const auto chunk = absl::MakeSpan(staging_.as<uint8_t>(), std::min(chunk_bytes, num_bytes - offset));
      TF_RETURN_IF_ERROR(checkpoint_.Read(*first.source, first.source_begin() + offset, chunk));
      TF_RETURN_IF_ERROR(CheckFinite(first, first.source_begin() + offset, chunk));
      for (const Piece* piece : pieces) TF_RETURN_IF_ERROR(Send(*piece, offset, chunk));
      bytes_done_ += static_cast<int64_t>(chunk.size());
      if (options_.progress) TF_RETURN_IF_ERROR(options_.progress(bytes_done_, bytes_total_));
    }
    return absl::OkStatus();
  }

  absl::Status CheckFinite(const Piece& piece, int64_t offset, absl::Span<const uint8_t> chunk) const {
    const int64_t idx = FindNonFinite(piece.dtype, chunk);
    if (idx < 0) return absl::OkStatus();
    const TensorInfo& info = *piece.source->info;
    const int64_t element = offset / DTypeBytes(piece.dtype) + idx;
    const int64_t cols = info.shape.back();
    return absl::DataLossError(absl::StrCat(checkpoint_.shard(piece.source->shard_idx).path(), ": tensor '", info.name,
                                            "': element ", element, " (row ", element / cols, ", column ",
                                            element % cols, ") of ", DescribeTensor(info.dtype, info.shape), " is ",
                                            DescribeElement(piece.dtype, chunk, idx), "; the file is damaged"));
  }

  template <class Narrow>
  static void Widen(absl::Span<const uint8_t> chunk, uint8_t* wide) {
    for (size_t i = 0; i < chunk.size() / sizeof(Narrow); ++i) {
      Narrow narrow;
      std::memcpy(&narrow, chunk.data() + i * sizeof(Narrow), sizeof(Narrow));
      const float value = ToFloat(narrow);
      std::memcpy(wide + i * sizeof(float), &value, sizeof(float));
    }
  }

  absl::Status Send(const Piece& piece, int64_t offset, absl::Span<const uint8_t> chunk) {
    uint8_t* free = staging_.as<uint8_t>() + AlignUp(static_cast<int64_t>(chunk.size()));
    absl::Span<const uint8_t> values = chunk;
    if (piece.widen) {
      if (piece.dtype == DType::kF16) {
        Widen<F16>(chunk, free);
      } else {
        Widen<BF16>(chunk, free);
      }
      values = absl::MakeConstSpan(free, 2 * chunk.size());
      offset *= 2;
      free += AlignUp(static_cast<int64_t>(values.size()));
    }
    if (piece.is_transposed()) {
      if (DTypeBytes(piece.spec->memory_dtype()) == 4) {
        SendColumns<uint32_t>(piece, offset, values, free);
      } else {
        SendColumns<uint16_t>(piece, offset, values, free);
      }
    } else {
      stream_.CopyToDevice(piece.dst + offset, values.data(), values.size());
    }
    bytes_enqueued_ += static_cast<int64_t>(values.size());
    if (bytes_enqueued_ < kMaxEnqueuedBytes) return absl::OkStatus();
    bytes_enqueued_ = 0;
    return stream_.Synchronize();
  }

  // `values` are whole stored rows, from byte `offset` of the piece's range; each is a column of its matrix.
  template <class Element>
  void SendColumns(const Piece& piece, int64_t offset, absl::Span<const uint8_t> values, uint8_t* column_bytes) {
    constexpr auto kBytes = static_cast<int64_t>(sizeof(Element));
    const StoredPart& part = piece.spec->stored;
    const int64_t num_stored = part.size / part.cols, first = offset / kBytes / part.cols;
    const int64_t n = static_cast<int64_t>(values.size()) / kBytes / part.cols;
    for (int64_t row = 0; row < piece.spec->shape[0]; ++row) {
      const int64_t col = part.first_col + row * part.col_step;
      for (int64_t i = 0; i < n; ++i) {
        std::memcpy(column_bytes + i * kBytes, values.data() + (i * part.cols + col) * kBytes, sizeof(Element));
      }
      stream_.CopyToDevice(piece.dst + (row * num_stored + first) * kBytes, column_bytes,
                           static_cast<size_t>(n * kBytes));
    }
  }

  const Checkpoint& checkpoint_;
  Stream& stream_;
  const Buffer staging_;
  const LoadOptions& options_;
  int64_t bytes_total_ = 0, bytes_done_ = 0, bytes_enqueued_ = 0;
};

// A vector is a matrix of one row.
WeightView MakeView(const Piece& weight, const float* scales, int32_t block) {
  const std::vector<int64_t>& shape = weight.spec->shape;
  WeightView view{.format = {.dtype = weight.spec->memory_dtype()},
                  .data = weight.dst,
                  .rows = shape.size() == 1 ? 1 : shape[0],
                  .cols = shape.back()};
  if (scales != nullptr) {
    view.format = F8BlockWeights::Of(block, block);
    view.scales = scales;
    view.scale_stride = weight.spec->scale_shape(block)[1];
  }
  return view;
}

ExpertMatrices* MatricesOf(LayerWeights& layer, Role role) {
  switch (role) {
    case Role::kExpertGate:
      return &layer.expert_gate;
    case Role::kExpertUp:
      return &layer.expert_up;
    case Role::kExpertDown:
      return &layer.expert_down;
    case Role::kExpertGateBias:
      return &layer.expert_gate_bias;
    case Role::kExpertUpBias:
      return &layer.expert_up_bias;
    case Role::kExpertDownBias:
      return &layer.expert_down_bias;
    default:
      return nullptr;
  }
}

constexpr Role kExpertRoles[] = {Role::kExpertGate,     Role::kExpertUp,     Role::kExpertDown,
                                 Role::kExpertGateBias, Role::kExpertUpBias, Role::kExpertDownBias};

void SetViews(const TensorPlan& plan, const Layout& layout, size_t num_slots, ModelWeights& weights) {
  weights.layers.resize(plan.model.layers.size());
  for (size_t i = 0; i < layout.pieces.size(); ++i) {
    const Piece& piece = layout.pieces[i];
    if (piece.is_scales) continue;  // taken together with its weight, which stands before it
    const TensorSpec& spec = *piece.spec;
    const float* scales = spec.has_scales() ? reinterpret_cast<const float*>(layout.pieces[i + 1].dst) : nullptr;
    const WeightView view = MakeView(piece, scales, plan.model.fp8_block);
    if (spec.layer < 0) {
      weights.ends[spec.role] = view;
    } else if (spec.expert < 0) {
      weights.layers[static_cast<size_t>(spec.layer)][spec.role] = view;
    } else {
      const auto slot = static_cast<size_t>(layout.slot_of_expert[static_cast<size_t>(spec.expert)]);
      ExpertMatrices* matrices = MatricesOf(weights.layers[static_cast<size_t>(spec.layer)], spec.role);
      TF_CHECK(matrices != nullptr);
      matrices->host.resize(num_slots);
      matrices->host[slot] = view;
    }
  }
  if (plan.model.tie_word_embeddings) weights.ends[Role::kLmHead] = weights.ends[Role::kEmbedTokens];
}

// A GPU's grouped product is launched for the format of all its groups.
absl::Status CheckOneFormat(const Device& device, const std::vector<WeightView>& views) {
  for (const WeightView& view : views) {
    if (device.kind() == DeviceKind::kCpu || view.format == views.front().format) continue;
    return absl::UnimplementedError(absl::StrCat("the experts of a layer are stored as ",
                                                 ToString(views.front().format), " and as ", ToString(view.format),
                                                 ", which a GPU does not multiply in one product; use --device cpu"));
  }
  return absl::OkStatus();
}

// The views of all experts of all layers, in one buffer.
absl::Status UploadExpertViews(Stream& stream, size_t num_slots, ModelWeights& weights) {
  std::vector<ExpertMatrices*> all;
  for (LayerWeights& layer : weights.layers) {
    for (const Role role : kExpertRoles) {
      ExpertMatrices* matrices = MatricesOf(layer, role);
      if (!matrices->host.empty()) all.push_back(matrices);
    }
  }
  const size_t array_bytes = num_slots * sizeof(WeightView);
  if (array_bytes == 0 || all.empty()) return absl::OkStatus();
  TF_ASSIGN_OR_RETURN(Buffer buffer, stream.device().Allocate(all.size() * array_bytes, MemoryKind::kDevice,
                                                              "weights: views of the experts"));
  for (size_t i = 0; i < all.size(); ++i) {
    TF_RETURN_IF_ERROR(CheckOneFormat(stream.device(), all[i]->host));
    uint8_t* dst = buffer.as<uint8_t>() + i * array_bytes;
    stream.CopyToDevice(dst, all[i]->host.data(), array_bytes);
    all[i]->device = reinterpret_cast<const WeightView*>(dst);
  }
  weights.buffers.push_back(std::move(buffer));
  return stream.Synchronize();
}

absl::Status CheckOptions(const TensorPlan& plan, const LoadOptions& options) {
  TF_CHECK(options.placement != nullptr);
  const Placement& placement = *options.placement;
  if (placement.num_experts() != plan.model.moe.num_experts) {
    return absl::InvalidArgumentError(absl::StrCat("the placement is for ", placement.num_experts(),
                                                   " experts, but the model has ", plan.model.moe.num_experts));
  }
  if (options.rank.value < 0 || options.rank.value >= placement.num_ranks()) {
    return absl::InvalidArgumentError(
        absl::StrCat("rank ", options.rank.value, " is not one of the placement's ", placement.num_ranks(), " ranks"));
  }
  // Enough for the widened copy of a bias beside it, and for whole elements.
  constexpr int64_t kMinStagingBytes = 1024;
  if (options.staging_bytes < kMinStagingBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("staging_bytes is ", options.staging_bytes, ", less than ", kMinStagingBytes));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<ModelWeights> LoadWeights(const Checkpoint& checkpoint, const TensorPlan& plan, Stream& stream,
                                         const LoadOptions& options) {
  TF_RETURN_IF_ERROR(CheckOptions(plan, options));
  if (stream.device().kind() == DeviceKind::kCuda) {
    TF_RETURN_IF_ERROR(Annotate(CheckExpertsAlike(plan), checkpoint.dir()));
  }
  TF_ASSIGN_OR_RETURN(Layout layout, MakeLayout(checkpoint, plan, options));
  ModelWeights weights;
  TF_RETURN_IF_ERROR(AllocateBuffers(stream.device(), layout, weights));
  TF_ASSIGN_OR_RETURN(Buffer staging, stream.device().Allocate(static_cast<size_t>(options.staging_bytes),
                                                               MemoryKind::kHost, "weights: staging"));
  TF_RETURN_IF_ERROR(Loader(checkpoint, stream, std::move(staging), options).Run(layout.pieces, weights.stats));
  const size_t num_slots = static_cast<size_t>(options.placement->num_local_slots(options.rank));
  SetViews(plan, layout, num_slots, weights);
  TF_RETURN_IF_ERROR(UploadExpertViews(stream, num_slots, weights));
  return weights;
}

}  // namespace tokenferry

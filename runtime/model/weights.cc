#include "runtime/model/weights.h"

#include <algorithm>
#include <map>
#include <string>
#include <tuple>

#include "absl/strings/str_cat.h"
#include "core/check.h"
#include "runtime/model/weight_loader.h"

namespace tokenferry {
namespace {

constexpr int64_t kAlignment = 64;  // of a tensor within its buffer: a cache line

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

// What this rank needs, laid out in buffers.
struct Layout {
  std::vector<Piece> pieces;     // by tensor, in the order of TensorSpec::stored
  std::vector<BufferKey> place;  // of each piece: its buffer,
  std::vector<int64_t> offset;   // and where in that; -1: it is not kept
  std::map<BufferKey, int64_t> buffer_bytes;
  std::vector<int32_t> slot_of_expert;  // -1: not on this rank

  absl::Status Add(const Checkpoint& checkpoint, const TensorSpec& spec, const StoredTensor& tensor) {
    const Checkpoint::Tensor* source = checkpoint.Find(tensor.name);
    if (source == nullptr) {
      return absl::InvalidArgumentError(
          absl::StrCat(checkpoint.dir(), ": tensor '", tensor.name, "' of the plan is missing"));
    }
    const WeightBytes bytes = spec.memory_bytes();
    const int64_t num_bytes = tensor.use == StoredTensor::Use::kData         ? bytes.data
                              : tensor.use == StoredTensor::Use::kScales     ? bytes.scales
                              : tensor.use == StoredTensor::Use::kZeroPoints ? bytes.zero_points
                                                                             : 0;
    const BufferKey key{spec.layer, GroupOf(spec)};
    pieces.push_back({&spec, &tensor, source, num_bytes});
    place.push_back(key);
    offset.push_back(-1);
    if (tensor.use == StoredTensor::Use::kGroupIdx) return absl::OkStatus();
    int64_t& end = buffer_bytes[key];
    offset.back() = end;
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
    for (const StoredTensor& tensor : spec.stored) TF_RETURN_IF_ERROR(layout.Add(checkpoint, spec, tensor));
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
  for (size_t i = 0; i < layout.pieces.size(); ++i) {
    if (layout.offset[i] >= 0) layout.pieces[i].dst = data[layout.place[i]] + layout.offset[i];
  }
  return absl::OkStatus();
}

// Of the pieces of one tensor, its data first.
WeightView MakeView(absl::Span<const Piece> pieces) {
  const TensorSpec& spec = *pieces[0].spec;
  WeightView view{.format = spec.format, .data = pieces[0].dst, .rows = spec.rows(), .cols = spec.cols()};
  for (const Piece& piece : pieces) {
    if (piece.tensor->use == StoredTensor::Use::kScales) {
      view.scales = piece.dst;
      view.scale_stride = (spec.cols() + spec.format.block_cols - 1) / spec.format.block_cols;
    }
    if (piece.tensor->use == StoredTensor::Use::kZeroPoints) view.zero_points = piece.dst;
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
  for (size_t i = 0, end; i < layout.pieces.size(); i = end) {
    const TensorSpec& spec = *layout.pieces[i].spec;
    end = i + spec.stored.size();
    const WeightView view = MakeView(absl::MakeConstSpan(layout.pieces).subspan(i, spec.stored.size()));
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
    TF_RETURN_IF_ERROR(Annotate(CheckGpuFormats(plan), checkpoint.dir()));
  }
  TF_ASSIGN_OR_RETURN(Layout layout, MakeLayout(checkpoint, plan, options));
  ModelWeights weights;
  TF_RETURN_IF_ERROR(AllocateBuffers(stream.device(), layout, weights));
  TF_ASSIGN_OR_RETURN(Buffer staging, stream.device().Allocate(static_cast<size_t>(options.staging_bytes),
                                                               MemoryKind::kHost, "weights: staging"));
  TF_RETURN_IF_ERROR(LoadPieces(checkpoint, stream, std::move(staging), options, layout.pieces, weights.stats));
  const size_t num_slots = static_cast<size_t>(options.placement->num_local_slots(options.rank));
  SetViews(plan, layout, num_slots, weights);
  TF_RETURN_IF_ERROR(UploadExpertViews(stream, num_slots, weights));
  return weights;
}

}  // namespace tokenferry

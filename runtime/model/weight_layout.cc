#include "runtime/model/weight_layout.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "core/host/memory_info.h"

namespace tokenferry {
namespace {

BufferGroup GroupOf(const TensorSpec& spec) {
  switch (spec.part()) {
    case ModelPart::kEmbedding:
      return BufferGroup::kEmbedding;
    case ModelPart::kHead:
      return BufferGroup::kHead;
    case ModelPart::kRoutedExpert:
      return BufferGroup::kExperts;
    case ModelPart::kDenseFfn:
    case ModelPart::kSharedExpert:
    case ModelPart::kRouter:
      return BufferGroup::kFfn;
    default:
      return spec.layer < 0 ? BufferGroup::kHead : BufferGroup::kAttention;
  }
}

const char* GroupName(BufferGroup group) {
  constexpr const char* kNames[] = {"embedding", "attention", "ffn", "experts", "head"};
  return kNames[static_cast<int>(group)];
}

absl::Status AddTensor(const Checkpoint& checkpoint, const TensorSpec& spec, WeightLayout& layout) {
  const BufferKey key{spec.layer, GroupOf(spec)};
  const WeightBytes bytes = spec.memory_bytes();
  int64_t& end = layout.buffer_bytes[key];
  const int64_t data = end, scales = data + AlignTensor(bytes.data), zero_points = scales + AlignTensor(bytes.scales);
  end = zero_points + AlignTensor(bytes.zero_points);
  layout.held.push_back({&spec, key, data, scales, zero_points, end, layout.pieces.size()});
  for (const StoredTensor& tensor : spec.stored) {
    const Checkpoint::Tensor* source = checkpoint.Find(tensor.name);
    if (source == nullptr) {
      return absl::InvalidArgumentError(
          absl::StrCat(checkpoint.dir(), ": tensor '", tensor.name, "' of the plan is missing"));
    }
    layout.pieces.push_back({&spec, &tensor, source});
  }
  return absl::OkStatus();
}

}  // namespace

WeightView MakeView(const TensorSpec& spec, const WeightFormat& format, uint8_t* data, uint8_t* scales,
                    uint8_t* zero_points) {
  WeightView view{.format = format, .data = data, .rows = spec.rows(), .cols = spec.cols()};
  if (!format.has_scales()) return view;
  view.scales = scales;
  view.scale_stride = (spec.cols() + format.block_cols - 1) / format.block_cols;
  if (format.coding == WeightCoding::kZeroPoint) view.zero_points = zero_points;
  return view;
}

WeightView Held::ViewAt(uint8_t* begin) const {
  return MakeView(*spec, spec->format, begin, begin + (scales - data), begin + (zero_points - data));
}

absl::StatusOr<WeightLayout> MakeLayout(const Checkpoint& checkpoint, const TensorPlan& plan,
                                        const LoadOptions& options) {
  WeightLayout layout;
  layout.slot_of_expert.assign(static_cast<size_t>(plan.model.moe.num_experts), -1);
  const auto experts = options.placement->local_experts(options.rank);
  for (size_t slot = 0; slot < experts.size(); ++slot)
    layout.slot_of_expert[experts[slot]] = static_cast<int32_t>(slot);
  for (const TensorSpec& spec : plan.tensors) {
    if (spec.expert >= 0 && layout.slot_of_expert[spec.expert] < 0) continue;
    TF_RETURN_IF_ERROR(AddTensor(checkpoint, spec, layout));
  }
  return layout;
}

absl::Status AllocateBuffers(Device& device, WeightLayout& layout, ModelWeights& weights) {
  std::map<BufferKey, uint8_t*> data;
  for (const auto& [key, num_bytes] : layout.buffer_bytes) {
    const auto& [layer, group] = key;
    const std::string label = layer < 0 ? absl::StrCat("weights: ", GroupName(group))
                                        : absl::StrCat("weights: layer ", layer, " ", GroupName(group));
    TF_ASSIGN_OR_RETURN(Buffer buffer, device.Allocate(static_cast<size_t>(num_bytes), MemoryKind::kDevice, label));
    if (device.kind() == DeviceKind::kCpu) PreferHugePages(buffer.data(), buffer.num_bytes());
    data[key] = buffer.as<uint8_t>();
    weights.stats.buffer_bytes += num_bytes;
    weights.buffers.push_back(std::move(buffer));
  }
  for (Held& held : layout.held) held.base = data[held.buffer];
  return absl::OkStatus();
}

void SetDestinations(absl::Span<Piece> pieces, uint8_t* data, uint8_t* scales, uint8_t* zero_points) {
  for (Piece& piece : pieces) {
    switch (piece.tensor->use) {
      case StoredTensor::Use::kData:
        piece.dst = data;
        break;
      case StoredTensor::Use::kScales:
        piece.dst = scales;
        break;
      case StoredTensor::Use::kZeroPoints:
        piece.dst = zero_points;
        break;
      case StoredTensor::Use::kGroupIdx:
      case StoredTensor::Use::kKeyHeads:
      case StoredTensor::Use::kValueHeads:
        piece.dst = nullptr;
        break;
    }
  }
}

}  // namespace tokenferry

#include "runtime/model/weights.h"

#include <algorithm>
#include <map>
#include <string>
#include <tuple>

#include "absl/strings/str_cat.h"
#include "core/check.h"
#include "core/host/memory_info.h"
#include "core/round_up.h"
#include "runtime/model/split_kv_b.h"
#include "runtime/model/weight_loader.h"
#include "runtime/ops/quantise_weights.h"

namespace tokenferry {
namespace {

constexpr int64_t kTensorAlignment = 64;  // of a tensor within its buffer: a cache line

int64_t AlignUp(int64_t num_bytes) { return RoundUp(num_bytes, kTensorAlignment); }

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

// A tensor that this rank keeps: where its parts lie in its buffer, and what it is made of.
struct Held {
  const TensorSpec* spec;
  BufferKey buffer;
  int64_t data, scales, zero_points;  // offsets in the buffer
  size_t first_piece;                 // of as many as the tensor has stored ones
  uint8_t* base = nullptr;            // of the buffer

  size_t num_pieces() const { return spec->stored.size(); }
};

// The view of a matrix of `format` whose parts lie there; what the format has not is not looked at.
WeightView MakeView(const TensorSpec& spec, const WeightFormat& format, uint8_t* data, uint8_t* scales,
                    uint8_t* zero_points) {
  WeightView view{.format = format, .data = data, .rows = spec.rows(), .cols = spec.cols()};
  if (!format.has_scales()) return view;
  view.scales = scales;
  view.scale_stride = (spec.cols() + format.block_cols - 1) / format.block_cols;
  if (format.coding == WeightCoding::kZeroPoint) view.zero_points = zero_points;
  return view;
}

WeightView ViewOf(const Held& held) {
  return MakeView(*held.spec, held.spec->format, held.base + held.data, held.base + held.scales,
                  held.base + held.zero_points);
}

// What this rank needs, laid out in buffers.
struct Layout {
  std::vector<Held> held;
  std::vector<Piece> pieces;  // by tensor, in the order of TensorSpec::stored
  std::map<BufferKey, int64_t> buffer_bytes;
  std::vector<int32_t> slot_of_expert;  // -1: not on this rank

  absl::Span<Piece> PiecesOf(const Held& h) { return absl::MakeSpan(pieces).subspan(h.first_piece, h.num_pieces()); }

  absl::Status Add(const Checkpoint& checkpoint, const TensorSpec& spec) {
    const BufferKey key{spec.layer, GroupOf(spec)};
    const WeightBytes bytes = spec.memory_bytes();
    int64_t& end = buffer_bytes[key];
    Held h{&spec,        key, end, end + AlignUp(bytes.data), end + AlignUp(bytes.data) + AlignUp(bytes.scales),
           pieces.size()};
    end = h.zero_points + AlignUp(bytes.zero_points);
    held.push_back(h);
    for (const StoredTensor& tensor : spec.stored) {
      const Checkpoint::Tensor* source = checkpoint.Find(tensor.name);
      if (source == nullptr) {
        return absl::InvalidArgumentError(
            absl::StrCat(checkpoint.dir(), ": tensor '", tensor.name, "' of the plan is missing"));
      }
      pieces.push_back({&spec, &tensor, source});
    }
    return absl::OkStatus();
  }
};

// Where the pieces of a tensor go whose parts lie there.
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

absl::StatusOr<Layout> MakeLayout(const Checkpoint& checkpoint, const TensorPlan& plan, const LoadOptions& options) {
  Layout layout;
  layout.slot_of_expert.assign(static_cast<size_t>(plan.model.moe.num_experts), -1);
  const auto experts = options.placement->local_experts(options.rank);
  for (size_t slot = 0; slot < experts.size(); ++slot)
    layout.slot_of_expert[experts[slot]] = static_cast<int32_t>(slot);
  for (const TensorSpec& spec : plan.tensors) {
    if (spec.expert >= 0 && layout.slot_of_expert[spec.expert] < 0) continue;
    TF_RETURN_IF_ERROR(layout.Add(checkpoint, spec));
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
    if (device.kind() == DeviceKind::kCpu) PreferHugePages(buffer.data(), buffer.num_bytes());
    data[key] = buffer.as<uint8_t>();
    weights.stats.buffer_bytes += num_bytes;
    weights.buffers.push_back(std::move(buffer));
  }
  for (Held& held : layout.held) held.base = data[held.buffer];
  return absl::OkStatus();
}

// Reads everything, and converts what memory holds in another format than the files: the matrices of an expert after
// each other in a buffer for one expert.
class LayoutLoader {
 public:
  LayoutLoader(const Checkpoint& checkpoint, Layout& layout, Stream& stream, PieceLoader& loader)
      : checkpoint_(checkpoint), layout_(layout), stream_(stream), loader_(loader) {}

  absl::Status Run(LoadStats& stats) {
    std::vector<Piece> kept;
    for (const Held& held : layout_.held) {
      stats.bytes_kept += held.spec->memory_bytes().total();
      ++stats.num_tensors;
      if (held.spec->is_split()) {
        TF_RETURN_IF_ERROR(LoadSplitKvB(checkpoint_, *held.spec, stream_, held.base + held.data));
        stats.bytes_read += held.spec->stored_bytes();
        continue;
      }
      if (held.spec->is_converted()) {
        if (converted_.empty() || !IsSameExpert(*converted_.back().back(), held)) converted_.emplace_back();
        converted_.back().push_back(&held);
        num_unfit_groups_.push_back(0);
        continue;
      }
      const absl::Span<Piece> pieces = layout_.PiecesOf(held);
      SetDestinations(pieces, held.base + held.data, held.base + held.scales, held.base + held.zero_points);
      kept.insert(kept.end(), pieces.begin(), pieces.end());
    }
    TF_RETURN_IF_ERROR(PrepareExperts());
    stats.conversion_bytes = static_cast<int64_t>(before_.num_bytes());
    loader_.Expect(kept);
    for (const auto& expert : converted_) loader_.Expect(PiecesOf(expert));
    TF_RETURN_IF_ERROR(loader_.Load(kept));
    for (const auto& expert : converted_) TF_RETURN_IF_ERROR(Convert(expert));
    stats.bytes_read += loader_.bytes_read();
    TF_RETURN_IF_ERROR(stream_.Synchronize());
    return CheckConverted();
  }

 private:
  using Expert = std::vector<const Held*>;

  static bool IsSameExpert(const Held& a, const Held& b) {
    return a.spec->layer == b.spec->layer && a.spec->expert == b.spec->expert;
  }

  static WeightBytes StoredBytes(const Held& held) {
    return BytesOf(held.spec->stored_format, held.spec->rows(), held.spec->cols());
  }

  // Where the parts of a matrix of the expert lie before it is converted.
  template <class Visit>
  static int64_t VisitParts(const Expert& expert, const Visit& visit) {
    int64_t end = 0;
    for (const Held* held : expert) {
      const WeightBytes bytes = StoredBytes(*held);
      const int64_t scales = end + AlignUp(bytes.data), zero_points = scales + AlignUp(bytes.scales);
      visit(*held, end, scales, zero_points);
      end = zero_points + AlignUp(bytes.zero_points);
    }
    return end;
  }

  absl::Status PrepareExperts() {
    int64_t most = 0;
    for (const Expert& expert : converted_) {
      most = std::max(most, VisitParts(expert, [](const Held&, int64_t, int64_t, int64_t) {}));
    }
    TF_ASSIGN_OR_RETURN(before_, stream_.device().Allocate(static_cast<size_t>(most), MemoryKind::kDevice,
                                                           "weights: an expert before its conversion"));
    uint8_t* base = before_.as<uint8_t>();
    for (const Expert& expert : converted_) {
      VisitParts(expert, [&](const Held& held, int64_t data, int64_t scales, int64_t zero_points) {
        SetDestinations(layout_.PiecesOf(held), base + data, base + scales, base + zero_points);
      });
    }
    return absl::OkStatus();
  }

  std::vector<Piece> PiecesOf(const Expert& expert) {
    std::vector<Piece> pieces;
    for (const Held* held : expert) {
      const absl::Span<Piece> of_one = layout_.PiecesOf(*held);
      pieces.insert(pieces.end(), of_one.begin(), of_one.end());
    }
    return pieces;
  }

  absl::Status Convert(const Expert& expert) {
    TF_RETURN_IF_ERROR(loader_.Load(PiecesOf(expert)));
    uint8_t* base = before_.as<uint8_t>();
    VisitParts(expert, [&](const Held& held, int64_t data, int64_t scales, int64_t zero_points) {
      QuantiseWeights(stream_, {.src = MakeView(*held.spec, held.spec->stored_format, base + data, base + scales,
                                                base + zero_points),
                                .dst = ViewOf(held),
                                .data = held.base + held.data,
                                .scales = held.base + held.scales,
                                .zero_points = held.base + held.zero_points,
                                .num_unfit_groups = &num_unfit_groups_[num_converted_++]});
    });
    return absl::OkStatus();
  }

  // After the stream has done all conversions.
  absl::Status CheckConverted() const {
    size_t i = 0;
    for (const Expert& expert : converted_) {
      for (const Held* held : expert) {
        const int64_t num_unfit = num_unfit_groups_[i++];
        if (num_unfit == 0) continue;
        return absl::DataLossError(absl::StrCat(
            "tensor '", held->spec->name(), "' does not fit into ", ToString(held->spec->format), ": in ", num_unfit,
            num_unfit == 1 ? " group " : " groups ",
            "there are numbers that are infinite, NaN or too large; only --expert-dtype stored takes it as it is"));
      }
    }
    return absl::OkStatus();
  }

  const Checkpoint& checkpoint_;
  Layout& layout_;
  Stream& stream_;
  PieceLoader& loader_;
  std::vector<Expert> converted_;
  std::vector<int64_t> num_unfit_groups_;  // by matrix of converted_
  size_t num_converted_ = 0;
  Buffer before_;
};

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
  for (const Held& held : layout.held) {
    const TensorSpec& spec = *held.spec;
    const WeightView view = ViewOf(held);
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
    for (const TensorSpec& spec : plan.tensors) {
      if (spec.is_converted()) {
        return absl::UnimplementedError("GPUs have no kernel that quantises experts yet; use --device cpu");
      }
    }
  }
  TF_ASSIGN_OR_RETURN(Layout layout, MakeLayout(checkpoint, plan, options));
  ModelWeights weights;
  TF_RETURN_IF_ERROR(AllocateBuffers(stream.device(), layout, weights));
  TF_ASSIGN_OR_RETURN(Buffer staging, stream.device().Allocate(static_cast<size_t>(options.staging_bytes),
                                                               MemoryKind::kHost, "weights: staging"));
  PieceLoader loader(checkpoint, stream, std::move(staging), options);
  TF_RETURN_IF_ERROR(LayoutLoader(checkpoint, layout, stream, loader).Run(weights.stats));
  const size_t num_slots = static_cast<size_t>(options.placement->num_local_slots(options.rank));
  SetViews(plan, layout, num_slots, weights);
  TF_RETURN_IF_ERROR(UploadExpertViews(stream, num_slots, weights));
  return weights;
}

}  // namespace tokenferry

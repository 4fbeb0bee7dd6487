#include "runtime/model/weights.h"

#include <algorithm>
#include <memory>

#include "absl/strings/str_cat.h"
#include "core/check.h"
#include "runtime/model/split_kv_b.h"
#include "runtime/model/weight_layout.h"
#include "runtime/model/weight_loader.h"
#include "runtime/ops/quantise_weights.h"

namespace tokenferry {
namespace {

// Reads everything, and converts what memory holds in another format than the files: the matrices of an expert after
// each other in a buffer for one expert. `converter` is `stream`, or, where that is a GPU's, a stream of the CPU, from
// which a matrix is copied when it has been converted.
class LayoutLoader {
 public:
  LayoutLoader(const Checkpoint& checkpoint, WeightLayout& layout, Stream& stream, Stream& converter,
               PieceLoader& loader)
      : checkpoint_(checkpoint), layout_(layout), stream_(stream), converter_(converter), loader_(loader) {}

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
    if (!copies()) stats.conversion_bytes = static_cast<int64_t>(before_.num_bytes());
    loader_.Expect(kept);
    for (const auto& expert : converted_) loader_.Expect(PiecesOf(expert));
    TF_RETURN_IF_ERROR(loader_.Load(stream_, kept));
    for (const auto& expert : converted_) TF_RETURN_IF_ERROR(Convert(expert));
    stats.bytes_read += loader_.bytes_read();
    TF_RETURN_IF_ERROR(stream_.Synchronize());
    return CheckConverted();
  }

 private:
  using Expert = std::vector<const Held*>;

  bool copies() const { return &converter_ != &stream_; }

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
      const int64_t scales = end + AlignTensor(bytes.data), zero_points = scales + AlignTensor(bytes.scales);
      visit(*held, end, scales, zero_points);
      end = zero_points + AlignTensor(bytes.zero_points);
    }
    return end;
  }

  absl::Status PrepareExperts() {
    int64_t most_before = 0, most_after = 0;
    for (const Expert& expert : converted_) {
      most_before = std::max(most_before, VisitParts(expert, [](const Held&, int64_t, int64_t, int64_t) {}));
      for (const Held* held : expert) most_after = std::max(most_after, held->end - held->data);
    }
    Device& device = converter_.device();
    TF_ASSIGN_OR_RETURN(before_, device.Allocate(static_cast<size_t>(most_before), MemoryKind::kDevice,
                                                 "weights: an expert before its conversion"));
    if (copies()) {
      TF_ASSIGN_OR_RETURN(after_, device.Allocate(static_cast<size_t>(most_after), MemoryKind::kHost,
                                                  "weights: a matrix after its conversion"));
    }
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
    TF_RETURN_IF_ERROR(loader_.Load(converter_, PiecesOf(expert)));
    uint8_t* base = before_.as<uint8_t>();
    absl::Status status;
    VisitParts(expert, [&](const Held& held, int64_t data, int64_t scales, int64_t zero_points) {
      if (!status.ok()) return;
      status = Quantise(held,
                        MakeView(*held.spec, held.spec->stored_format, base + data, base + scales, base + zero_points));
    });
    return status;
  }

  absl::Status Quantise(const Held& held, const WeightView& src) {
    uint8_t* const place = held.base + held.data;
    uint8_t* const to = copies() ? after_.as<uint8_t>() : place;
    QuantiseWeights(converter_, {.src = src,
                                 .dst = held.ViewAt(to),
                                 .data = to,
                                 .scales = to + (held.scales - held.data),
                                 .zero_points = to + (held.zero_points - held.data),
                                 .num_unfit_groups = &num_unfit_groups_[num_converted_++]});
    if (!copies()) return absl::OkStatus();
    TF_RETURN_IF_ERROR(converter_.Synchronize());
    stream_.CopyToDevice(place, to, static_cast<size_t>(held.end - held.data));
    return absl::OkStatus();
  }

  // After all conversions.
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
  WeightLayout& layout_;
  Stream &stream_, &converter_;
  PieceLoader& loader_;
  std::vector<Expert> converted_;
  std::vector<int64_t> num_unfit_groups_;  // by matrix of converted_
  size_t num_converted_ = 0;
  Buffer before_, after_;
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

void SetViews(const TensorPlan& plan, const WeightLayout& layout, size_t num_slots, ModelWeights& weights) {
  weights.layers.resize(plan.model.layers.size());
  for (const Held& held : layout.held) {
    const TensorSpec& spec = *held.spec;
    const WeightView view = held.View();
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
  std::unique_ptr<Device> cpu;
  std::unique_ptr<Stream> converter;
  if (stream.device().kind() == DeviceKind::kCuda) {
    TF_RETURN_IF_ERROR(Annotate(CheckGpuFormats(plan), checkpoint.dir()));
    if (std::any_of(plan.tensors.begin(), plan.tensors.end(), [](const auto& spec) { return spec.is_converted(); })) {
      cpu = CreateCpuDevice(options.converter);
      TF_ASSIGN_OR_RETURN(converter, cpu->CreateStream());
    }
  }
  TF_ASSIGN_OR_RETURN(WeightLayout layout, MakeLayout(checkpoint, plan, options));
  ModelWeights weights;
  TF_RETURN_IF_ERROR(AllocateBuffers(stream.device(), layout, weights));
  TF_ASSIGN_OR_RETURN(Buffer staging, stream.device().Allocate(static_cast<size_t>(options.staging_bytes),
                                                               MemoryKind::kHost, "weights: staging"));
  PieceLoader loader(checkpoint, std::move(staging), options);
  TF_RETURN_IF_ERROR(
      LayoutLoader(checkpoint, layout, stream, converter == nullptr ? stream : *converter, loader).Run(weights.stats));
  const size_t num_slots = static_cast<size_t>(options.placement->num_local_slots(options.rank));
  SetViews(plan, layout, num_slots, weights);
  TF_RETURN_IF_ERROR(UploadExpertViews(stream, num_slots, weights));
  return weights;
}

}  // namespace tokenferry

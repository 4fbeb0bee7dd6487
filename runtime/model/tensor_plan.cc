#include "runtime/model/tensor_plan.h"

#include <algorithm>
#include <map>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_join.h"
#include "core/check.h"
#include "core/io/foreign_text.h"

namespace tokenferry {
namespace {

constexpr size_t kMaxNamesShown = 5;

// How a kind of tensor may be stored.
enum class Storage : uint8_t {
  kPlain,      // F32 or BF16
  kQuantised,  // F32, BF16, or FP8 with scales
  kBias,       // F32 (BF16 is widened)
};

struct KindInfo {
  WeightKind kind;
  const char* name;  // behind "model.layers.N." (and "mlp.experts.E." for routed experts), or whole
  ModelPart part;
  Storage storage;
};

constexpr KindInfo kKinds[] = {
    {WeightKind::kEmbedTokens, "model.embed_tokens.weight", ModelPart::kEmbedding, Storage::kPlain},
    {WeightKind::kInputNorm, "input_layernorm.weight", ModelPart::kNorm, Storage::kPlain},
    {WeightKind::kQA, "self_attn.q_a_proj.weight", ModelPart::kAttention, Storage::kQuantised},
    {WeightKind::kQANorm, "self_attn.q_a_layernorm.weight", ModelPart::kNorm, Storage::kPlain},
    {WeightKind::kQB, "self_attn.q_b_proj.weight", ModelPart::kAttention, Storage::kQuantised},
    {WeightKind::kQ, "self_attn.q_proj.weight", ModelPart::kAttention, Storage::kQuantised},
    {WeightKind::kKvA, "self_attn.kv_a_proj_with_mqa.weight", ModelPart::kAttention, Storage::kQuantised},
    {WeightKind::kKvANorm, "self_attn.kv_a_layernorm.weight", ModelPart::kNorm, Storage::kPlain},
    {WeightKind::kKvB, "self_attn.kv_b_proj.weight", ModelPart::kAttention, Storage::kQuantised},
    {WeightKind::kO, "self_attn.o_proj.weight", ModelPart::kAttention, Storage::kQuantised},
    {WeightKind::kPostNorm, "post_attention_layernorm.weight", ModelPart::kNorm, Storage::kPlain},
    {WeightKind::kDenseGate, "mlp.gate_proj.weight", ModelPart::kDenseFfn, Storage::kQuantised},
    {WeightKind::kDenseUp, "mlp.up_proj.weight", ModelPart::kDenseFfn, Storage::kQuantised},
    {WeightKind::kDenseDown, "mlp.down_proj.weight", ModelPart::kDenseFfn, Storage::kQuantised},
    {WeightKind::kRouter, "mlp.gate.weight", ModelPart::kRouter, Storage::kPlain},
    {WeightKind::kRouterBias, "mlp.gate.e_score_correction_bias", ModelPart::kRouter, Storage::kBias},
    {WeightKind::kSharedGate, "mlp.shared_experts.gate_proj.weight", ModelPart::kSharedExpert, Storage::kQuantised},
    {WeightKind::kSharedUp, "mlp.shared_experts.up_proj.weight", ModelPart::kSharedExpert, Storage::kQuantised},
    {WeightKind::kSharedDown, "mlp.shared_experts.down_proj.weight", ModelPart::kSharedExpert, Storage::kQuantised},
    {WeightKind::kExpertGate, "gate_proj.weight", ModelPart::kRoutedExpert, Storage::kQuantised},
    {WeightKind::kExpertUp, "up_proj.weight", ModelPart::kRoutedExpert, Storage::kQuantised},
    {WeightKind::kExpertDown, "down_proj.weight", ModelPart::kRoutedExpert, Storage::kQuantised},
    {WeightKind::kFinalNorm, "model.norm.weight", ModelPart::kNorm, Storage::kPlain},
    {WeightKind::kLmHead, "lm_head.weight", ModelPart::kHead, Storage::kPlain},
};

const KindInfo& Info(WeightKind kind) {
  const KindInfo& info = kKinds[static_cast<int>(kind)];
  TF_CHECK(info.kind == kind);
  return info;
}

// Collects the tensors of a plan, layer by layer.
class Planner {
 public:
  explicit Planner(const ModelConfig& config) : c_(config) { plan_.config = config; }

  TensorPlan Run() && {
    Add(WeightKind::kEmbedTokens, {c_.vocab_size, c_.hidden_size});
    for (layer_ = 0; layer_ < c_.num_hidden_layers; ++layer_) AddLayer();
    layer_ = -1;
    Add(WeightKind::kFinalNorm, {c_.hidden_size});
    if (!c_.tie_word_embeddings) Add(WeightKind::kLmHead, {c_.vocab_size, c_.hidden_size});
    return std::move(plan_);
  }

 private:
  void Add(WeightKind kind, std::vector<int64_t> shape, int32_t expert = -1) {
    const KindInfo& info = Info(kind);
    TensorSpec spec{.kind = kind, .layer = layer_, .expert = expert, .shape = std::move(shape)};
    if (layer_ >= 0) absl::StrAppend(&spec.name, "model.layers.", layer_, ".");
    if (expert >= 0) absl::StrAppend(&spec.name, "mlp.experts.", expert, ".");
    spec.name += info.name;
    const bool quantised = c_.fp8_block > 0 && info.storage == Storage::kQuantised;
    spec.dtype = quantised ? DType::kF8E4M3 : info.storage == Storage::kBias ? DType::kF32 : c_.dtype;
    plan_.tensors.push_back(std::move(spec));
  }

  void AddLayer() {
    Add(WeightKind::kInputNorm, {c_.hidden_size});
    AddAttention();
    Add(WeightKind::kPostNorm, {c_.hidden_size});
    if (!c_.IsMoeLayer(layer_)) {
      AddFfn(WeightKind::kDenseGate, WeightKind::kDenseUp, WeightKind::kDenseDown, c_.intermediate_size);
      return;
    }
    Add(WeightKind::kRouter, {c_.n_routed_experts, c_.hidden_size});
    Add(WeightKind::kRouterBias, {c_.n_routed_experts});
    if (c_.n_shared_experts > 0) {
      AddFfn(WeightKind::kSharedGate, WeightKind::kSharedUp, WeightKind::kSharedDown,
             c_.n_shared_experts * c_.moe_intermediate_size);
    }
    for (int32_t e = 0; e < c_.n_routed_experts; ++e) {
      AddFfn(WeightKind::kExpertGate, WeightKind::kExpertUp, WeightKind::kExpertDown, c_.moe_intermediate_size, e);
    }
  }

  void AddAttention() {
    const int64_t q_rows = c_.num_attention_heads * c_.qk_head_dim();
    if (c_.q_lora_rank > 0) {
      Add(WeightKind::kQA, {c_.q_lora_rank, c_.hidden_size});
      Add(WeightKind::kQANorm, {c_.q_lora_rank});
      Add(WeightKind::kQB, {q_rows, c_.q_lora_rank});
    } else {
      Add(WeightKind::kQ, {q_rows, c_.hidden_size});
    }
    Add(WeightKind::kKvA, {c_.kv_lora_rank + c_.qk_rope_head_dim, c_.hidden_size});
    Add(WeightKind::kKvANorm, {c_.kv_lora_rank});
    Add(WeightKind::kKvB, {c_.num_attention_heads * (c_.qk_nope_head_dim + c_.v_head_dim), c_.kv_lora_rank});
    Add(WeightKind::kO, {c_.hidden_size, c_.num_attention_heads * c_.v_head_dim});
  }

  void AddFfn(WeightKind gate, WeightKind up, WeightKind down, int64_t width, int32_t expert = -1) {
    Add(gate, {width, c_.hidden_size}, expert);
    Add(up, {width, c_.hidden_size}, expert);
    Add(down, {c_.hidden_size, width}, expert);
  }

  const ModelConfig& c_;
  TensorPlan plan_;
  int32_t layer_ = -1;
};

absl::string_view AllowedTypes(Storage storage) {
  return storage == Storage::kQuantised ? "F32, BF16 or F8_E4M3 with scales" : "F32 or BF16";
}

// An error when the tensor, which is needed, has a fault or a problem.
absl::Status CheckUsable(const std::string& name, const Checkpoint& checkpoint) {
  const absl::Status& fault = checkpoint.FaultOf(name);
  if (!fault.ok()) return absl::Status(fault.code(), absl::StrCat(fault.message(), "; '", name, "' is needed"));
  const Checkpoint::Tensor* found = checkpoint.Find(name);
  if (found == nullptr || found->info->problem.empty()) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(checkpoint.shard(found->shard_idx).path(), ": tensor '", name, "' ",
                                                 found->info->problem, ", and it is needed"));
}

absl::Status CheckScales(const TensorSpec& spec, int32_t block, const Checkpoint& checkpoint,
                         const std::string& weight_path) {
  if (block == 0) {
    return absl::InvalidArgumentError(absl::StrCat(weight_path, ": tensor '", spec.name,
                                                   "' is stored as F8_E4M3, but config.json has no quantization_config "
                                                   "that gives the size of its blocks"));
  }
  TF_RETURN_IF_ERROR(CheckUsable(spec.scale_name(), checkpoint));
  const std::vector<int64_t> expected = spec.scale_shape(block);
  const Checkpoint::Tensor* scales = checkpoint.Find(spec.scale_name());
  if (scales == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat(weight_path, ": tensor '", spec.name, "' is stored as ",
                                                   DescribeTensor(spec.dtype, spec.shape), ", but its scales '",
                                                   spec.scale_name(), "' ", DescribeTensor(DType::kF32, expected),
                                                   " are missing in ", checkpoint.dir()));
  }
  if (scales->info->dtype == DType::kF32 && scales->info->shape == expected) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      checkpoint.shard(scales->shard_idx).path(), ": tensor '", spec.scale_name(), "' is ",
      DescribeTensor(scales->info->dtype, scales->info->shape), ", but ", DescribeTensor(spec.dtype, spec.shape),
      " in blocks of ", block, " needs ", DescribeTensor(DType::kF32, expected)));
}

// Checks one tensor that is there, and takes over its stored type.
absl::Status CheckTensor(TensorSpec& spec, const Checkpoint::Tensor& found, int32_t block,
                         const Checkpoint& checkpoint) {
  const std::string& path = checkpoint.shard(found.shard_idx).path();
  const TensorInfo& info = *found.info;
  if (info.shape != spec.shape) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": tensor '", spec.name, "' is ", DescribeTensor(info.dtype, info.shape),
                     ", but config.json asks for [", absl::StrJoin(spec.shape, ", "), "]"));
  }
  const Storage storage = Info(spec.kind).storage;
  const bool plain = info.dtype == DType::kF32 || info.dtype == DType::kBF16;
  if (!plain && !(info.dtype == DType::kF8E4M3 && storage == Storage::kQuantised)) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": tensor '", spec.name, "' is ",
                                                   DescribeTensor(info.dtype, info.shape), ", but must be ",
                                                   AllowedTypes(storage)));
  }
  spec.dtype = info.dtype;
  return spec.has_scales() ? CheckScales(spec, block, checkpoint, path) : absl::OkStatus();
}

// Tensors that published checkpoints have and this runtime does not use.
bool IsKnownButUnused(absl::string_view name, const ModelConfig& config) {
  if (absl::EndsWith(name, ".rotary_emb.inv_freq")) return true;
  if (name == Info(WeightKind::kLmHead).name) return config.tie_word_embeddings;
  constexpr absl::string_view kLayerPrefix = "model.layers.";
  if (!absl::StartsWith(name, kLayerPrefix)) return false;
  const absl::string_view rest = name.substr(kLayerPrefix.size());
  int64_t layer = -1;
  return absl::SimpleAtoi(rest.substr(0, rest.find('.')), &layer) && layer >= config.num_hidden_layers;
}

void ClassifyOthers(const Checkpoint& checkpoint, const absl::flat_hash_set<std::string>& needed,
                    CheckedPlan& checked) {
  for (int s = 0; s < checkpoint.num_shards(); ++s) {
    for (const TensorInfo& info : checkpoint.shard(s).tensors()) {
      if (needed.contains(info.name)) continue;
      if (IsKnownButUnused(info.name, checked.plan.config)) {
        ++checked.num_skipped;
        checked.skipped_bytes += info.num_bytes;
        if (info.problem.empty() && !absl::EndsWith(info.name, "_scale_inv")) {
          checked.num_skipped_params += 8 * info.num_bytes / DTypeBits(info.dtype);
        }
        continue;
      }
      ++checked.num_unknown;
      if (checked.unknown_names.size() < kMaxNamesShown) checked.unknown_names.push_back(Excerpt(info.name));
    }
  }
}

// One line for each kind of fault: what is wrong with one shard is the same for all its tensors.
void CollectWarnings(const Checkpoint& checkpoint, CheckedPlan& checked) {
  std::map<std::string, int64_t> num_tensors;  // by fault
  for (const auto& [name, fault] : checkpoint.faults()) ++num_tensors[std::string(fault.message())];
  for (int s = 0; s < checkpoint.num_shards(); ++s) {
    for (const TensorInfo& info : checkpoint.shard(s).tensors()) {
      if (!info.problem.empty()) ++num_tensors[absl::StrCat(checkpoint.shard(s).path(), ": a tensor ", info.problem)];
    }
  }
  for (const auto& [fault, count] : num_tensors) {
    if (checked.warnings.size() == kMaxNamesShown) {
      checked.warnings.push_back(absl::StrCat("and ", num_tensors.size() - kMaxNamesShown, " more such faults"));
      return;
    }
    checked.warnings.push_back(absl::StrCat(fault, " (not needed: ", count, count == 1 ? " tensor)" : " tensors)"));
  }
}

}  // namespace

absl::string_view ModelPartName(ModelPart part) {
  constexpr absl::string_view kNames[kNumModelParts] = {"embedding",      "attention",      "dense FFN", "router",
                                                        "shared experts", "routed experts", "norms",     "head"};
  return kNames[static_cast<int>(part)];
}

ModelPart TensorSpec::part() const { return Info(kind).part; }

int64_t TensorSpec::num_elements() const {
  int64_t product = 1;
  for (const int64_t dim : shape) product *= dim;
  return product;
}

std::vector<int64_t> TensorSpec::scale_shape(int32_t block) const {
  std::vector<int64_t> result;
  for (const int64_t dim : shape) result.push_back((dim + block - 1) / block);
  return result;
}

int64_t TensorSpec::scale_bytes(int32_t block) const {
  if (!has_scales()) return 0;
  const std::vector<int64_t> dims = scale_shape(block);
  return dims[0] * dims[1] * DTypeBytes(DType::kF32);
}

TensorPlan PlanTensors(const ModelConfig& config) { return Planner(config).Run(); }

absl::Status CheckExpertsAlike(const TensorPlan& plan) {
  std::map<std::pair<int32_t, WeightKind>, const TensorSpec*> first;  // by layer and matrix
  for (const TensorSpec& spec : plan.tensors) {
    if (spec.expert < 0) continue;
    const TensorSpec& other = *first.emplace(std::pair(spec.layer, spec.kind), &spec).first->second;
    if (other.dtype == spec.dtype) continue;
    return absl::UnimplementedError(absl::StrCat("tensor '", spec.name, "' is ", DTypeName(spec.dtype), ", but '",
                                                 other.name, "' is ", DTypeName(other.dtype),
                                                 "; on a GPU the experts of a layer must be stored alike"));
  }
  return absl::OkStatus();
}

absl::StatusOr<CheckedPlan> CheckCheckpoint(const ModelConfig& config, const Checkpoint& checkpoint) {
  CheckedPlan checked{.plan = PlanTensors(config)};
  absl::flat_hash_set<std::string> needed;
  std::vector<std::string> missing;
  for (TensorSpec& spec : checked.plan.tensors) {
    TF_RETURN_IF_ERROR(CheckUsable(spec.name, checkpoint));
    const Checkpoint::Tensor* found = checkpoint.Find(spec.name);
    if (found == nullptr) {
      missing.push_back(DescribeTensor(spec.dtype, spec.shape) + " '" + spec.name + "'");
      continue;
    }
    TF_RETURN_IF_ERROR(CheckTensor(spec, *found, config.fp8_block, checkpoint));
    needed.insert(spec.name);
    if (spec.has_scales()) needed.insert(spec.scale_name());
  }
  if (!missing.empty()) {
    const size_t shown = std::min(missing.size(), kMaxNamesShown);
    return absl::InvalidArgumentError(
        absl::StrCat(checkpoint.dir(), ": ", missing.size(), " of ", checked.plan.tensors.size(),
                     " tensors that config.json asks for are missing: ",
                     absl::StrJoin(missing.begin(), missing.begin() + static_cast<std::ptrdiff_t>(shown), ", "),
                     missing.size() > shown ? ", ..." : ""));
  }
  ClassifyOthers(checkpoint, needed, checked);
  CollectWarnings(checkpoint, checked);
  return checked;
}

}  // namespace tokenferry

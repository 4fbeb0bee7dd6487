#include "runtime/model/tensor_plan.h"

#include <algorithm>
#include <map>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_join.h"
#include "absl/strings/substitute.h"
#include "core/io/foreign_text.h"

namespace tokenferry {
namespace {

constexpr size_t kMaxNamesShown = 5;

// Gated networks: gate and up [width, H], down [H, width].
struct FfnRoles {
  Role gate, up, down;
};
constexpr FfnRoles kDense{Role::kDenseGate, Role::kDenseUp, Role::kDenseDown};
constexpr FfnRoles kShared{Role::kSharedGate, Role::kSharedUp, Role::kSharedDown};
constexpr FfnRoles kExpert{Role::kExpertGate, Role::kExpertUp, Role::kExpertDown};

void VisitFfn(const FfnRoles& roles, int64_t width, int64_t hidden, TensorVisitor visit, int32_t expert = -1) {
  visit(roles.gate, {width, hidden}, expert);
  visit(roles.up, {width, hidden}, expert);
  visit(roles.down, {hidden, width}, expert);
}

void VisitLatentAttention(const AttentionSpec& a, int64_t hidden, TensorVisitor visit) {
  if (a.q_lora_rank > 0) {
    visit(Role::kQA, {a.q_lora_rank, hidden}, -1);
    visit(Role::kQANorm, {a.q_lora_rank}, -1);
    visit(Role::kQB, {a.query_size(), a.q_lora_rank}, -1);
  } else {
    visit(Role::kQ, {a.query_size(), hidden}, -1);
  }
  visit(Role::kKvA, {a.cache_row(), hidden}, -1);
  visit(Role::kKvANorm, {a.kv_lora_rank}, -1);
  visit(Role::kKvB, {a.num_heads * (a.nope_dim + a.value_dim), a.kv_lora_rank}, -1);
}

void VisitGroupedAttention(const AttentionSpec& a, int64_t hidden, TensorVisitor visit) {
  const int64_t q_rows = a.query_size(), kv_rows = a.num_kv_heads * a.head_dim;
  visit(Role::kQ, {q_rows, hidden}, -1);
  visit(Role::kK, {kv_rows, hidden}, -1);
  visit(Role::kV, {kv_rows, hidden}, -1);
  if (a.qkv_bias == Bias::kYes) {
    visit(Role::kQBias, {q_rows}, -1);
    visit(Role::kKBias, {kv_rows}, -1);
    visit(Role::kVBias, {kv_rows}, -1);
  }
  if (a.sinks == Bias::kYes) visit(Role::kSinks, {a.num_heads}, -1);
  if (a.qk_norm == QkNorm::kHead || a.qk_norm == QkNorm::kProjection) {
    const bool heads = a.qk_norm == QkNorm::kHead;
    visit(Role::kQNorm, {heads ? a.head_dim : q_rows}, -1);
    visit(Role::kKNorm, {heads ? a.head_dim : kv_rows}, -1);
  }
}

void VisitExpertBiases(const MoeSpec& moe, int64_t hidden, TensorVisitor visit, int32_t expert) {
  visit(Role::kExpertGateBias, {moe.intermediate}, expert);
  visit(Role::kExpertUpBias, {moe.intermediate}, expert);
  visit(Role::kExpertDownBias, {hidden}, expert);
}

void VisitExperts(const MoeSpec& moe, int64_t hidden, TensorVisitor visit) {
  visit(Role::kRouter, {moe.num_experts, hidden}, -1);
  if (moe.router_bias == Bias::kYes) visit(Role::kRouterBias, {moe.num_experts}, -1);
  if (moe.choice_bias == Bias::kYes) visit(Role::kChoiceBias, {moe.num_experts}, -1);
  if (moe.shared_intermediate > 0) VisitFfn(kShared, moe.shared_intermediate, hidden, visit);
  if (moe.shared_score == Bias::kYes) visit(Role::kSharedScore, {1, hidden}, -1);
  for (int32_t e = 0; e < moe.num_experts; ++e) {
    VisitFfn(kExpert, moe.intermediate, hidden, visit, e);
    if (moe.expert_bias == Bias::kYes) VisitExpertBiases(moe, hidden, visit, e);
  }
}

// The name in the files.
std::string NameOf(const ModelSpec& model, Role role, int32_t layer, int32_t expert) {
  const auto own = model.names.find(role);
  const std::string name = own != model.names.end() ? own->second : InfoOf(role).name;
  const std::string place = layer < 0 ? "" : absl::StrCat("model.layers.", layer, ".");
  return absl::StrCat(model.prefix, place, expert < 0 ? name : absl::Substitute(name, expert));
}

// Gate and up share a tensor: which half of it the role is; -1: it has one for itself.
int HalfOf(Role role) {
  switch (role) {
    case Role::kSharedGate:
    case Role::kExpertGate:
    case Role::kExpertGateBias:
      return 0;
    case Role::kSharedUp:
    case Role::kExpertUp:
    case Role::kExpertUpBias:
      return 1;
    default:
      return -1;
  }
}

int64_t Product(const std::vector<int64_t>& shape) {
  int64_t product = 1;
  for (const int64_t dim : shape) product *= dim;
  return product;
}

// Fills in where the files have the role's matrix or vector. A shared network is fused by rows only.
void Locate(FusedExperts fused, int64_t num_experts, TensorSpec& spec) {
  const int half = HalfOf(spec.role);
  const bool is_shared = spec.part() == ModelPart::kSharedExpert && half >= 0;
  spec.stored_shape = spec.shape;
  if (fused == FusedExperts::kNone || (spec.expert < 0 && !(is_shared && fused == FusedExperts::kRows))) return;
  const bool is_transposed = fused != FusedExperts::kRows;
  const int64_t num_halves = half < 0 ? 1 : 2, size = Product(spec.shape), num_rows = spec.shape[0];
  StoredPart& part = spec.stored;
  std::vector<int64_t>& stored = spec.stored_shape;  // first of one expert
  stored[0] *= num_halves;
  const int64_t expert_begin = std::max(spec.expert, 0) * num_halves * size;
  if (is_transposed) {
    std::reverse(stored.begin(), stored.end());
    part = {StoredPart::Kind::kColumns, expert_begin, num_halves * size, num_halves * num_rows};
    const bool in_turn = fused == FusedExperts::kInterleavedColumns;
    part.col_step = in_turn ? num_halves : 1;
    part.first_col = half <= 0 ? 0 : in_turn ? 1 : num_rows;
  } else {
    part = {StoredPart::Kind::kRange, expert_begin + std::max(half, 0) * size, size};
  }
  if (spec.expert >= 0) stored.insert(stored.begin(), num_experts);
}

TensorSpec SpecOf(const ModelSpec& model, Role role, std::vector<int64_t> shape, int32_t layer, int32_t expert) {
  const Storage storage = InfoOf(role).storage;
  const bool quantised = model.fp8_block > 0 && storage == Storage::kQuantised;
  TensorSpec spec{.role = role,
                  .layer = layer,
                  .expert = expert,
                  .name = NameOf(model, role, layer, expert),
                  .shape = std::move(shape),
                  .dtype = quantised                   ? DType::kF8E4M3
                           : role == Role::kChoiceBias ? DType::kF32
                                                       : model.dtype};
  Locate(model.fused, model.moe.num_experts, spec);
  return spec;
}

bool IsPlain(DType dtype) { return dtype == DType::kF32 || dtype == DType::kBF16 || dtype == DType::kF16; }

absl::string_view AllowedTypes(Storage storage) {
  return storage == Storage::kQuantised ? "F32, BF16, F16 or F8_E4M3 with scales" : "F32, BF16 or F16";
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
  if (info.shape != spec.stored_shape) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": tensor '", spec.name, "' is ", DescribeTensor(info.dtype, info.shape),
                     ", but config.json asks for [", absl::StrJoin(spec.stored_shape, ", "), "]"));
  }
  const Storage storage = InfoOf(spec.role).storage;
  if (!IsPlain(info.dtype) && !(info.dtype == DType::kF8E4M3 && storage == Storage::kQuantised)) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": tensor '", spec.name, "' is ",
                                                   DescribeTensor(info.dtype, info.shape), ", but must be ",
                                                   AllowedTypes(storage)));
  }
  spec.dtype = info.dtype;
  return spec.has_scales() ? CheckScales(spec, block, checkpoint, path) : absl::OkStatus();
}

// Tensors that published checkpoints have and this runtime does not use.
bool IsKnownButUnused(absl::string_view name, const ModelSpec& model) {
  if (absl::EndsWith(name, ".rotary_emb.inv_freq")) return true;
  if (name == NameOf(model, Role::kLmHead, -1, -1)) return model.tie_word_embeddings;
  for (const std::string& prefix : model.not_read) {
    if (absl::StartsWith(name, prefix)) return true;
  }
  const std::string layers = absl::StrCat(model.prefix, "model.layers.");
  if (!absl::StartsWith(name, layers)) return false;
  const absl::string_view rest = name.substr(layers.size());
  int64_t layer = -1;
  return absl::SimpleAtoi(rest.substr(0, rest.find('.')), &layer) && layer >= model.num_layers();
}

void ClassifyOthers(const Checkpoint& checkpoint, const absl::flat_hash_set<std::string>& needed,
                    CheckedPlan& checked) {
  for (int s = 0; s < checkpoint.num_shards(); ++s) {
    for (const TensorInfo& info : checkpoint.shard(s).tensors()) {
      if (needed.contains(info.name)) continue;
      if (IsKnownButUnused(info.name, checked.plan.model)) {
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

int64_t TensorSpec::num_elements() const { return Product(shape); }

DType TensorSpec::memory_dtype() const {
  return dtype == DType::kF16 || InfoOf(role).storage == Storage::kF32 ? DType::kF32 : dtype;
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

void VisitLayer(const ModelSpec& model, const LayerSpec& layer, TensorVisitor visit) {
  const int64_t hidden = model.hidden_size;
  const AttentionSpec& attention = layer.attention;
  visit(Role::kInputNorm, {hidden}, -1);
  switch (attention.kind) {
    case AttentionKind::kLatent:
      VisitLatentAttention(attention, hidden, visit);
      break;
    case AttentionKind::kGrouped:
      VisitGroupedAttention(attention, hidden, visit);
      break;
  }
  visit(Role::kO, {hidden, attention.output_size()}, -1);
  if (attention.o_bias == Bias::kYes) visit(Role::kOBias, {hidden}, -1);
  visit(Role::kPostNorm, {hidden}, -1);
  if (layer.is_moe) {
    VisitExperts(model.moe, hidden, visit);
  } else {
    VisitFfn(kDense, layer.dense_intermediate, hidden, visit);
  }
}

TensorPlan PlanTensors(const ModelSpec& model) {
  TensorPlan plan{.model = model};
  const auto add = [&](Role role, std::vector<int64_t> shape, int32_t layer, int32_t expert) {
    plan.tensors.push_back(SpecOf(model, role, std::move(shape), layer, expert));
  };
  add(Role::kEmbedTokens, {model.vocab_size, model.hidden_size}, -1, -1);
  for (int32_t l = 0; l < model.num_layers(); ++l) {
    VisitLayer(model, model.layers[l],
               [&](Role role, std::vector<int64_t> shape, int32_t expert) { add(role, std::move(shape), l, expert); });
  }
  add(Role::kFinalNorm, {model.hidden_size}, -1, -1);
  if (!model.tie_word_embeddings) add(Role::kLmHead, {model.vocab_size, model.hidden_size}, -1, -1);
  return plan;
}

absl::Status CheckExpertsAlike(const TensorPlan& plan) {
  std::map<std::pair<int32_t, Role>, const TensorSpec*> first;  // by layer and matrix
  for (const TensorSpec& spec : plan.tensors) {
    if (spec.expert < 0) continue;
    const TensorSpec& other = *first.emplace(std::pair(spec.layer, spec.role), &spec).first->second;
    if (other.dtype == spec.dtype) continue;
    return absl::UnimplementedError(absl::StrCat("tensor '", spec.name, "' is ", DTypeName(spec.dtype), ", but '",
                                                 other.name, "' is ", DTypeName(other.dtype),
                                                 "; on a GPU the experts of a layer must be stored alike"));
  }
  return absl::OkStatus();
}

absl::StatusOr<CheckedPlan> CheckCheckpoint(const ModelSpec& model, const Checkpoint& checkpoint) {
  CheckedPlan checked{.plan = PlanTensors(model)};
  absl::flat_hash_set<std::string> needed;
  std::vector<std::string> missing;
  for (TensorSpec& spec : checked.plan.tensors) {
    TF_RETURN_IF_ERROR(CheckUsable(spec.name, checkpoint));
    const Checkpoint::Tensor* found = checkpoint.Find(spec.name);
    if (found == nullptr) {
      const std::string shown = DescribeTensor(spec.dtype, spec.stored_shape) + " '" + spec.name + "'";
      if (std::find(missing.begin(), missing.end(), shown) == missing.end()) missing.push_back(shown);
      continue;
    }
    TF_RETURN_IF_ERROR(CheckTensor(spec, *found, model.fp8_block, checkpoint));
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

#include "runtime/model/tensor_plan.h"

#include <algorithm>
#include <map>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/strip.h"
#include "core/check.h"
#include "core/io/foreign_text.h"
#include "runtime/model/name_patterns.h"
#include "runtime/model/tensor_check.h"

namespace tokenferry {
namespace {

constexpr size_t kMaxFaultsShown = 5;

// Gated networks: gate and up [width, H], down [H, width].
struct FfnRoles {
  Role gate, up, down;
};
constexpr FfnRoles kDense{Role::kDenseGate, Role::kDenseUp, Role::kDenseDown};
constexpr FfnRoles kShared{Role::kSharedGate, Role::kSharedUp, Role::kSharedDown};
constexpr FfnRoles kExpert{Role::kExpertGate, Role::kExpertUp, Role::kExpertDown};

void VisitFfn(const FfnRoles& roles, int64_t width, int64_t hidden, GatedActivation::Kind activation,
              TensorVisitor visit, int32_t expert = -1) {
  visit(roles.gate, {width, hidden}, expert);
  if (GatedActivation{activation}.has_up()) visit(roles.up, {width, hidden}, expert);
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
  const IndexerSpec& indexer = a.indexer;
  if (indexer.kind != IndexerSpec::Kind::kOwn) return;
  visit(Role::kIndexQB, {indexer.num_heads * indexer.head_dim, a.q_lora_rank}, -1);
  visit(Role::kIndexK, {indexer.head_dim, hidden}, -1);
  visit(Role::kIndexKNorm, {indexer.head_dim}, -1);
  visit(Role::kIndexKNormBias, {indexer.head_dim}, -1);
  visit(Role::kIndexWeights, {indexer.num_heads, hidden}, -1);
}

void VisitGroupedAttention(const AttentionSpec& a, int64_t hidden, TensorVisitor visit) {
  const int64_t q_rows = a.query_rows(), kv_rows = a.num_kv_heads * a.head_dim;
  visit(Role::kQ, {q_rows, hidden}, -1);
  visit(Role::kK, {kv_rows, hidden}, -1);
  visit(Role::kV, {kv_rows, hidden}, -1);
  if (a.has_qkv_bias) {
    visit(Role::kQBias, {q_rows}, -1);
    visit(Role::kKBias, {kv_rows}, -1);
    visit(Role::kVBias, {kv_rows}, -1);
  }
  if (a.has_sinks) visit(Role::kSinks, {a.num_heads}, -1);
  if (a.has_relative_table) visit(Role::kRelativeBias, {a.relative.num_buckets, a.num_heads}, -1);
  if (a.qk_norm == QkNorm::kHead || a.qk_norm == QkNorm::kProjection) {
    const bool heads = a.qk_norm == QkNorm::kHead;
    visit(Role::kQNorm, {heads ? a.head_dim : q_rows}, -1);
    visit(Role::kKNorm, {heads ? a.head_dim : kv_rows}, -1);
  }
}

void VisitGatedDelta(const AttentionSpec& a, int64_t hidden, TensorVisitor visit) {
  const DeltaShape& d = a.delta;
  if (a.delta_projections == DeltaProjections::kApart) {
    visit(Role::kDeltaQkv, {d.num_channels(), hidden}, -1);
    visit(Role::kDeltaZ, {d.values_size(), hidden}, -1);
    visit(Role::kDeltaB, {d.num_value_heads, hidden}, -1);
    visit(Role::kDeltaA, {d.num_value_heads, hidden}, -1);
  } else {
    visit(Role::kDeltaQkvz, {d.num_channels() + d.values_size(), hidden}, -1);
    visit(Role::kDeltaBa, {2 * d.num_value_heads, hidden}, -1);
  }
  visit(Role::kDeltaConv, {d.conv_size, d.num_channels()}, -1);
  visit(Role::kDeltaALog, {d.num_value_heads}, -1);
  visit(Role::kDeltaDtBias, {d.num_value_heads}, -1);
  visit(Role::kDeltaNorm, {d.value_dim}, -1);
}

void VisitCrossAttention(const AttentionSpec& a, int64_t hidden, TensorVisitor visit) {
  visit(Role::kCrossNorm, {hidden}, -1);
  visit(Role::kCrossQ, {a.query_size(), hidden}, -1);
  for (const Role role : {Role::kCrossK, Role::kCrossV}) visit(role, {a.num_kv_heads * a.head_dim, hidden}, -1);
  visit(Role::kCrossO, {hidden, a.output_size()}, -1);
}

// A norm of hidden states.
void VisitNorm(const ModelSpec& model, Role weight, Role bias, TensorVisitor visit) {
  visit(weight, {model.hidden_size}, -1);
  if (model.norm == NormKind::kLayer) visit(bias, {model.hidden_size}, -1);
}

void VisitExpertBiases(const MoeSpec& moe, int64_t hidden, TensorVisitor visit, int32_t expert) {
  visit(Role::kExpertGateBias, {moe.intermediate}, expert);
  visit(Role::kExpertUpBias, {moe.intermediate}, expert);
  visit(Role::kExpertDownBias, {hidden}, expert);
}

void VisitExperts(const MoeSpec& moe, int64_t hidden, TensorVisitor visit) {
  visit(Role::kRouter, {moe.num_experts, hidden}, -1);
  if (moe.has_router_bias) visit(Role::kRouterBias, {moe.num_experts}, -1);
  if (moe.has_choice_bias) visit(Role::kChoiceBias, {moe.num_experts}, -1);
  if (moe.shared_intermediate > 0)
    VisitFfn(kShared, moe.shared_intermediate, hidden, GatedActivation::Kind::kSilu, visit);
  if (moe.has_shared_score) visit(Role::kSharedScore, {1, hidden}, -1);
  for (int32_t e = 0; e < moe.num_experts; ++e) {
    VisitFfn(kExpert, moe.intermediate, hidden, moe.activation.kind, visit, e);
    if (moe.has_expert_bias) VisitExpertBiases(moe, hidden, visit, e);
  }
}

// As config.json implies.
absl::StatusOr<TensorSpec> SpecOf(const ModelSpec& model, const NamePatterns& ignored, Role role,
                                  std::vector<int64_t> shape, int32_t layer, int32_t expert) {
  TensorSpec spec{.role = role, .layer = layer, .expert = expert, .shape = std::move(shape)};
  StorePlain(model, role == Role::kChoiceBias ? DType::kF32 : model.dtype, spec);
  if (!CanBeQuantised(model, role)) return spec;
  const std::string name = spec.name();
  TF_ASSIGN_OR_RETURN(const std::string* const pattern, ignored.FindMatch(absl::StripSuffix(name, ".weight")));
  if (pattern == nullptr) StoreQuantised(model, spec);
  return spec;
}

// Tensors that published checkpoints have and this runtime does not use.
bool IsKnownButUnused(absl::string_view name, const ModelSpec& model) {
  if (absl::EndsWith(name, ".rotary_emb.inv_freq")) return true;
  // Scales of activations, which are not quantised here, and the shape that packed words have anyway.
  for (const absl::string_view suffix : {".input_scale", ".weight_shape"}) {
    if (model.quant.is_quantised() && absl::EndsWith(name, suffix)) return true;
  }
  if (name == PlainName(model, Role::kLmHead, -1, -1)) return model.tie_word_embeddings;
  for (const std::string& prefix : model.not_read) {
    if (absl::StartsWith(name, prefix)) return true;
  }
  const std::string layers = absl::StrCat(model.prefix, model.layer_prefix);
  if (!absl::StartsWith(name, layers)) return false;
  const absl::string_view rest = name.substr(layers.size());
  int64_t layer = -1;
  return absl::SimpleAtoi(rest.substr(0, rest.find('.')), &layer) && layer >= model.num_layers();
}

// Parameters that a stored tensor holds, by its name and type alone: none for what belongs to the codes of another one,
// and as many as there are codes in packed words.
int64_t ParamsOf(const TensorInfo& info, const QuantSpec& quant) {
  if (!info.problem.empty()) return 0;
  const DTypeBlock block = BlockOf(info.dtype);
  const int64_t num_elements = info.num_bytes / block.bytes * block.elements;
  if (!quant.is_quantised()) return num_elements;
  for (const absl::string_view suffix :
       {"_scale", "_scale_inv", "_scale_2", ".scales", "_scales", ".qzeros", "_zero_point", "g_idx", ".weight_shape"}) {
    if (absl::EndsWith(info.name, suffix)) return 0;
  }
  for (const absl::string_view suffix : {".qweight", "_packed", "_blocks"}) {
    if (absl::EndsWith(info.name, suffix)) return 8 * info.num_bytes / quant.bits;
  }
  return num_elements;
}

void ClassifyOthers(const Checkpoint& checkpoint, const absl::flat_hash_set<std::string>& needed,
                    CheckedPlan& checked) {
  for (int s = 0; s < checkpoint.num_shards(); ++s) {
    for (const TensorInfo& info : checkpoint.shard(s).tensors()) {
      if (needed.contains(info.name)) continue;
      if (IsKnownButUnused(info.name, checked.plan.model)) {
        ++checked.num_skipped;
        checked.skipped_bytes += info.num_bytes;
        checked.num_skipped_params += ParamsOf(info, checked.plan.model.quant);
        continue;
      }
      ++checked.num_unknown;
      if (checked.unknown_names.size() < kMaxFaultsShown) checked.unknown_names.push_back(Excerpt(info.name));
    }
  }
}

// The first tensor of the first expert, whatever it is stored as; empty: it is not in the files, nor in what is broken
// of them.
std::string FindExperts(const ModelSpec& model, const Checkpoint& checkpoint) {
  const auto first = std::find_if(model.layers.begin(), model.layers.end(), [](const auto& l) { return l.is_moe; });
  const auto layer = static_cast<int32_t>(first - model.layers.begin());
  const std::string name = PlainName(model, Role::kExpertGate, layer, 0);
  const absl::string_view module = absl::StripSuffix(name, "weight");
  for (int s = 0; s < checkpoint.num_shards(); ++s) {
    for (const TensorInfo& info : checkpoint.shard(s).tensors()) {
      if (absl::StartsWith(info.name, module)) return info.name;
    }
  }
  for (const auto& [faulty, fault] : checkpoint.faults()) {
    if (absl::StartsWith(faulty, module)) return faulty;
  }
  return "";
}

// With the experts as the files have them.
absl::StatusOr<ModelSpec> AsStored(const ModelSpec& model, const Checkpoint& checkpoint) {
  if (!model.fused_instead) return model;
  ModelSpec other = WithExpertsInstead(model);
  const std::string there = FindExperts(other, checkpoint);
  if (there.empty()) return model;
  const std::string expected = FindExperts(model, checkpoint);
  if (expected.empty()) return other;
  return absl::InvalidArgumentError(absl::StrCat(checkpoint.dir(), ": there are '", expected, "' and '", there,
                                                 "': experts one by one and together; one must go"));
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
    if (checked.warnings.size() == kMaxFaultsShown) {
      checked.warnings.push_back(absl::StrCat("and ", num_tensors.size() - kMaxFaultsShown, " more such faults"));
      return;
    }
    checked.warnings.push_back(absl::StrCat(fault, " (not needed: ", count, count == 1 ? " tensor)" : " tensors)"));
  }
}

}  // namespace

ModelSpec WithExpertsInstead(ModelSpec model) {
  constexpr absl::string_view kOfMixtral = "block_sparse_moe.";
  constexpr char kExperts[] = "experts.";
  std::swap(model.fused, *model.fused_instead);
  for (auto& [role, name] : model.names) {
    if (absl::StartsWith(name, kOfMixtral)) name = absl::StrCat("mlp.", name.substr(kOfMixtral.size()));
  }
  const auto gate = model.names.find(Role::kExpertGate);
  const std::string name = gate == model.names.end() ? InfoOf(Role::kExpertGate).name : gate->second;
  const std::string base = name.substr(0, name.find(kExperts) + sizeof(kExperts) - 1);
  const bool is_single = model.fused == FusedExperts::kNone;
  model.names[Role::kExpertGate] = base + (is_single ? "$0.gate_proj.weight" : "gate_up_proj");
  model.names[Role::kExpertUp] = base + (is_single ? "$0.up_proj.weight" : "gate_up_proj");
  model.names[Role::kExpertDown] = base + (is_single ? "$0.down_proj.weight" : "down_proj");
  return model;
}

void VisitLayer(const ModelSpec& model, const LayerSpec& layer, TensorVisitor visit) {
  const int64_t hidden = model.hidden_size;
  const AttentionSpec& attention = layer.attention;
  VisitNorm(model, Role::kInputNorm, Role::kInputNormBias, visit);
  switch (attention.kind) {
    case AttentionKind::kLatent:
      VisitLatentAttention(attention, hidden, visit);
      break;
    case AttentionKind::kGrouped:
      VisitGroupedAttention(attention, hidden, visit);
      break;
    case AttentionKind::kGatedDelta:
      VisitGatedDelta(attention, hidden, visit);
      break;
  }
  visit(OutputRole(attention.kind), {hidden, attention.output_size()}, -1);
  if (attention.has_o_bias) visit(Role::kOBias, {hidden}, -1);
  if (layer.attends_to_encoder) VisitCrossAttention(attention, hidden, visit);
  VisitNorm(model, Role::kPostNorm, Role::kPostNormBias, visit);
  if (layer.is_moe) {
    VisitExperts(model.moe, hidden, visit);
  } else {
    VisitFfn(kDense, layer.dense_intermediate, hidden, model.dense_activation, visit);
  }
}

absl::StatusOr<TensorPlan> PlanTensors(const ModelSpec& model) {
  TensorPlan plan{.model = model};
  TF_ASSIGN_OR_RETURN(const NamePatterns ignored, NamePatterns::Compile(model.quant.ignored));
  absl::Status status = absl::OkStatus();
  const auto add = [&](Role role, std::vector<int64_t> shape, int32_t layer, int32_t expert) {
    if (!status.ok()) return;
    auto spec = SpecOf(model, ignored, role, std::move(shape), layer, expert);
    status = spec.status();
    if (spec.ok()) plan.tensors.push_back(*std::move(spec));
  };
  add(Role::kEmbedTokens, {model.vocab_size, model.hidden_size}, -1, -1);
  for (int32_t l = 0; l < model.num_layers(); ++l) {
    VisitLayer(model, model.layers[l],
               [&](Role role, std::vector<int64_t> shape, int32_t expert) { add(role, std::move(shape), l, expert); });
  }
  const auto of_model = [&](Role role, std::vector<int64_t> shape, int32_t) { add(role, std::move(shape), -1, -1); };
  if (model.has_encoder()) add(Role::kEncoderNorm, {model.hidden_size}, -1, -1);
  VisitNorm(model, Role::kFinalNorm, Role::kFinalNormBias, of_model);
  if (!model.tie_word_embeddings) add(Role::kLmHead, {model.vocab_size, model.hidden_size}, -1, -1);
  if (model.has_head_bias) add(Role::kLmHeadBias, {model.vocab_size}, -1, -1);
  TF_RETURN_IF_ERROR(Annotate(status, "quantization_config"));
  return plan;
}

absl::Status CheckGpuFormats(const TensorPlan& plan) {
  std::map<std::pair<int32_t, Role>, const TensorSpec*> first;  // by layer and matrix
  for (const TensorSpec& spec : plan.tensors) {
    if (spec.expert < 0) continue;
    const TensorSpec& other = *first.emplace(std::pair(spec.layer, spec.role), &spec).first->second;
    if (other.format == spec.format) continue;
    return absl::UnimplementedError(absl::StrCat("tensor '", spec.name(), "' is ", ToString(spec.format), ", but '",
                                                 other.name(), "' is ", ToString(other.format),
                                                 ": GPUs need the experts of a layer in one format; use --device cpu"));
  }
  return absl::OkStatus();
}

absl::StatusOr<CheckedPlan> CheckCheckpoint(const ModelSpec& model, const Checkpoint& checkpoint) {
  TF_ASSIGN_OR_RETURN(const ModelSpec stored, AsStored(model, checkpoint));
  auto plan = PlanTensors(stored);
  if (!plan.ok()) return Annotate(plan.status(), absl::StrCat(checkpoint.dir(), "/config.json"));
  CheckedPlan checked{.plan = *std::move(plan)};
  TF_ASSIGN_OR_RETURN(const NamePatterns ignored, NamePatterns::Compile(stored.quant.ignored));
  TensorCheck check(stored, ignored, checkpoint);
  for (TensorSpec& spec : checked.plan.tensors) TF_RETURN_IF_ERROR(check.Resolve(spec));
  TF_RETURN_IF_ERROR(check.MissingTensors(checked.plan.tensors.size()));
  ClassifyOthers(checkpoint, check.needed(), checked);
  CollectWarnings(checkpoint, checked);
  return checked;
}

}  // namespace tokenferry

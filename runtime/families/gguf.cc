#include "runtime/families/gguf.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "runtime/families/family.h"
#include "runtime/families/gguf_architectures.h"

namespace tokenferry {
namespace {

using nlohmann::json;

constexpr absl::string_view kEmbedding = "token_embd.weight", kHead = "output.weight";

// What all architectures have.
constexpr GgufKey kCommonKeys[] = {{"block_count", "num_hidden_layers"},
                                   {"embedding_length", "hidden_size"},
                                   {"context_length", "max_position_embeddings"},
                                   {"feed_forward_length", "intermediate_size"},
                                   {"expert_used_count", "num_experts_per_tok"},
                                   {"attention.head_count", "num_attention_heads"},
                                   {"attention.head_count_kv", "num_key_value_heads"},
                                   {"attention.layer_norm_rms_epsilon", "rms_norm_eps"},
                                   {"rope.freq_base", "rope_theta"}};

// Null, with an error in the reader: not known.
const GgufArchitecture* FindArchitecture(ConfigReader& in) {
  const std::string name = in.String("general.architecture");
  std::vector<absl::string_view> known;
  for (const GgufArchitecture& architecture : GgufArchitectures()) {
    if (architecture.name == name) return &architecture;
    known.push_back(architecture.name);
  }
  in.RequireOneOf("general.architecture", name, known, "architecture");
  return nullptr;
}

// What cosines and sines are multiplied by follows from the rest; files must not say otherwise. ggml takes a negative
// share of extrapolation for none given, and 0 is what it has without YaRN.
void CheckAttentionFactors(ConfigReader& in, bool is_yarn) {
  for (const absl::string_view name : {"attn_factor", "yarn_attn_factor", "yarn_ext_factor"}) {
    const std::string key = GgufKeyName(in, absl::StrCat("rope.scaling.", name));
    const double value = in.Number(key, -1e6, 1e6, 1);
    if (name == "yarn_ext_factor" && (value < 0 || (value == 0 && !is_yarn))) continue;
    if (value != 1) in.FailUnsupported(key, absl::StrCat("is ", value, "; only 1 is supported"));
  }
}

// rope.scaling.*: none, linear or YaRN. A factor alone means linear scaling. What tensors say is read later.
void ReadScaling(ConfigReader& in, const GgufArchitecture& architecture, const Checkpoint& checkpoint, json& config) {
  const auto key = [&](absl::string_view name) { return GgufKeyName(in, absl::StrCat("rope.scaling.", name)); };
  const std::string factor_key = in.Has(key("factor")) ? key("factor") : GgufKeyName(in, "rope.scale_linear");
  const double factor = in.Number(factor_key, 0, 1e6, 1);
  const bool has_factor = factor != 0 && factor != 1;
  const std::string type = in.String(key("type"), has_factor ? "linear" : "none");
  const bool has_long_rope = checkpoint.Find("rope_factors_long.weight") != nullptr;
  if (type == "longrope" && has_long_rope) return;
  in.RequireOneOf(key("type"), type, {"none", "linear", "yarn"}, "scaling of the rotation");
  if (!has_long_rope) CheckAttentionFactors(in, type == "yarn");
  if (type == "linear") config["rope_scaling"] = {{"rope_type", "linear"}, {"factor", factor == 0 ? 1 : factor}};
  if (type == "none") config["rope_scaling"] = {{"rope_type", "default"}};  // whatever the family's class would have
  if (!in.ok() || type != "yarn") return;
  json scaling = {{"type", type}, {"factor", in.Number(key("factor"), 1, 1e6)}};
  if (in.Has(key("original_context_length"))) {
    scaling["original_max_position_embeddings"] = in.Int(key("original_context_length"), 1, kMaxSize);
  }
  if (in.Has(key("yarn_beta_fast"))) scaling["beta_fast"] = in.Number(key("yarn_beta_fast"), 1e-6, 1e6);
  if (in.Has(key("yarn_beta_slow"))) scaling["beta_slow"] = in.Number(key("yarn_beta_slow"), 1e-6, 1e6);
  // A tenth of DeepSeek's mscale_all_dim, which its mscale is equal to.
  if (architecture.model_type == "deepseek_v2") {
    scaling["mscale"] = scaling["mscale_all_dim"] = 10 * in.Number(key("yarn_log_multiplier"), 1e-6, 1e3);
  }
  if (architecture.truncate == YarnTruncate::kNo) scaling["truncate"] = false;
  config["rope_scaling"] = std::move(scaling);
}

// Heads of grouped attention turn as a whole, and values are as long as keys.
void CheckHeads(ConfigReader& in, const json& config) {
  const int64_t num_heads = in.Int(GgufKeyName(in, "attention.head_count"), 1, kMaxHeads);
  const int64_t hidden = in.Int(GgufKeyName(in, "embedding_length"), 1, kMaxSize);
  const int64_t head_dim = in.Int(GgufKeyName(in, "attention.key_length"), 1, kMaxHeadDim, hidden / num_heads);
  if (in.ok() && !config.contains("head_dim") && head_dim != hidden / num_heads) {
    in.FailUnsupported(GgufKeyName(in, "attention.key_length"),
                       absl::StrCat("is ", head_dim, ", not ", hidden / num_heads));
  }
  const bool is_partial = config.contains("partial_rotary_factor") || config.contains("rotary_dim");
  for (const absl::string_view name : {"rope.dimension_count", "attention.value_length"}) {
    if (is_partial && name == "rope.dimension_count") continue;
    const int64_t dim = in.Int(GgufKeyName(in, name), 1, kMaxHeadDim, head_dim);
    if (in.ok() && dim != head_dim) {
      in.FailUnsupported(GgufKeyName(in, name), absl::StrCat("is ", dim, ", but heads have ", head_dim));
    }
  }
}

// expert_gating_func, where files have it.
void CheckScoring(ConfigReader& in, const GgufArchitecture& architecture) {
  if (architecture.scoring == 0) return;
  const std::string key = GgufKeyName(in, "expert_gating_func");
  const int64_t scoring = in.Int(key, 0, 100, architecture.scoring);
  if (in.ok() && scoring != architecture.scoring) {
    in.FailUnsupported(
        key, absl::StrCat("is ", scoring, "; only ", architecture.scoring, " is supported for this architecture"));
  }
}

// Any of these ends a text.
void ReadTokens(ConfigReader& in, json& config) {
  config["eos_token_id"] = json::array();
  const int64_t vocab_size = config["vocab_size"].get<int64_t>();
  for (const absl::string_view name : {"eos", "eot", "eom"}) {
    const std::string key = absl::StrCat("tokenizer.ggml.", name, "_token_id");
    if (in.Has(key)) config["eos_token_id"].push_back(in.Int(key, 0, vocab_size - 1));
  }
  if (in.Has("tokenizer.ggml.bos_token_id")) {
    config["bos_token_id"] = in.Int("tokenizer.ggml.bos_token_id", 0, vocab_size - 1);
  }
}

}  // namespace

absl::StatusOr<JsonDocument> ConfigOfGguf(const JsonNode& metadata, const Checkpoint& checkpoint) {
  ConfigReader in(metadata);
  const GgufArchitecture* architecture = FindArchitecture(in);
  TF_RETURN_IF_ERROR(in.status());
  const Checkpoint::Tensor* embedding = checkpoint.Find(kEmbedding);
  if (embedding == nullptr || embedding->info->shape.size() != 2) {
    return absl::InvalidArgumentError(
        absl::StrCat(checkpoint.dir(), ": has no tensor '", kEmbedding, "' of two dimensions"));
  }
  json config = {{"model_type", std::string(architecture->model_type)},
                 {"vocab_size", embedding->info->shape[0]},
                 {"tie_word_embeddings", checkpoint.Find(kHead) == nullptr},
                 {"torch_dtype", "float32"},
                 {"rope_theta", 10000.0}};
  const auto copy = [&](absl::Span<const GgufKey> keys) {
    for (const GgufKey& key : keys) {
      if (const auto value = in.Find(GgufKeyName(in, key.gguf)); value)
        config[std::string(key.config)] = value->value();
    }
  };
  copy(kCommonKeys);
  copy(architecture->keys);
  ReadScaling(in, *architecture, checkpoint, config);
  ReadTokens(in, config);
  CheckScoring(in, *architecture);
  if (architecture->read != nullptr) architecture->read(in, checkpoint, config);
  if (architecture->model_type != "deepseek_v2") CheckHeads(in, config);
  TF_RETURN_IF_ERROR(in.status());
  return JsonDocument::Of(std::move(config),
                          absl::StrCat(checkpoint.dir(), " (its metadata by the names of a config.json)"));
}

void NameLikeGguf(const JsonNode& metadata, const Checkpoint& checkpoint, ModelSpec& spec) {
  ConfigReader in(metadata);
  const GgufArchitecture* architecture = FindArchitecture(in);
  for (LayerSpec& layer : spec.layers) layer.attention.rope_layout = architecture->rope_layout;
  spec.layer_prefix = "blk.";
  spec.fused = FusedExperts::kStacked;
  spec.fused_instead.reset();
  // What the first layer has, all have.
  spec.has_split_kv_b =
      checkpoint.Find("blk.0.attn_k_b.weight") != nullptr && checkpoint.Find("blk.0.attn_kv_b.weight") == nullptr;
  spec.names = {{Role::kEmbedTokens, std::string(kEmbedding)},
                {Role::kFinalNorm, "output_norm.weight"},
                {Role::kFinalNormBias, "output_norm.bias"},
                {Role::kLmHead, std::string(kHead)},
                {Role::kLmHeadBias, "output.bias"},
                {Role::kInputNorm, "attn_norm.weight"},
                {Role::kInputNormBias, "attn_norm.bias"},
                {Role::kPostNorm, "ffn_norm.weight"},
                {Role::kPostNormBias, "ffn_norm.bias"},
                {Role::kQ, "attn_q.weight"},
                {Role::kO, "attn_output.weight"},
                {Role::kQA, "attn_q_a.weight"},
                {Role::kQANorm, "attn_q_a_norm.weight"},
                {Role::kQB, "attn_q_b.weight"},
                {Role::kKvA, "attn_kv_a_mqa.weight"},
                {Role::kKvANorm, "attn_kv_a_norm.weight"},
                {Role::kKvB, "attn_kv_b.weight"},
                {Role::kK, "attn_k.weight"},
                {Role::kV, "attn_v.weight"},
                {Role::kQBias, "attn_q.bias"},
                {Role::kKBias, "attn_k.bias"},
                {Role::kVBias, "attn_v.bias"},
                {Role::kOBias, "attn_output.bias"},
                {Role::kQNorm, "attn_q_norm.weight"},
                {Role::kKNorm, "attn_k_norm.weight"},
                {Role::kSinks, "attn_sinks.weight"},
                {Role::kDenseGate, "ffn_gate.weight"},
                {Role::kDenseUp, "ffn_up.weight"},
                {Role::kDenseDown, "ffn_down.weight"},
                {Role::kRouter, "ffn_gate_inp.weight"},
                {Role::kRouterBias, "ffn_gate_inp.bias"},
                {Role::kChoiceBias, "exp_probs_b.bias"},
                {Role::kSharedGate, "ffn_gate_shexp.weight"},
                {Role::kSharedUp, "ffn_up_shexp.weight"},
                {Role::kSharedDown, "ffn_down_shexp.weight"},
                {Role::kSharedScore, "ffn_gate_inp_shexp.weight"},
                {Role::kExpertGate, "ffn_gate_exps.weight"},
                {Role::kExpertUp, "ffn_up_exps.weight"},
                {Role::kExpertDown, "ffn_down_exps.weight"},
                {Role::kExpertGateBias, "ffn_gate_exps.bias"},
                {Role::kExpertUpBias, "ffn_up_exps.bias"},
                {Role::kExpertDownBias, "ffn_down_exps.bias"}};
  for (const auto& [role, name] : architecture->names) spec.names[role] = name;
  if (checkpoint.Find("blk.0.ffn_gate.0.weight") == nullptr) return;
  // The first files with experts had them one by one.
  spec.fused = FusedExperts::kNone;
  spec.names[Role::kExpertGate] = "ffn_gate.$0.weight";
  spec.names[Role::kExpertUp] = "ffn_up.$0.weight";
  spec.names[Role::kExpertDown] = "ffn_down.$0.weight";
}

}  // namespace tokenferry

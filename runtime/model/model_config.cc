#include "runtime/model/model_config.h"

#include <unistd.h>

#include <nlohmann/json.hpp>

#include "core/io/json.h"
#include "runtime/checkpoint/model_folder.h"
#include "runtime/model/config_reader.h"
#include "runtime/model/rope_reader.h"

namespace tokenferry {
namespace {

constexpr absl::string_view kModelTypes[] = {"deepseek_v3", "kimi_k2"};
constexpr absl::string_view kArchitectures[] = {"DeepseekV3ForCausalLM"};
constexpr absl::string_view kQuantMethods[] = {"fp8"};

// Beyond any published model, and small enough for products of sizes to fit into int64.
constexpr int64_t kMaxSize = int64_t{1} << 24;  // of a dimension
constexpr int64_t kMaxHeads = int64_t{1} << 14;
constexpr int64_t kMaxHeadDim = int64_t{1} << 12;
constexpr int64_t kMaxLayers = 512;
constexpr int64_t kMaxExperts = 4096;
constexpr int64_t kMaxExpertsPerToken = 32;        // the router's limit
constexpr int64_t kMaxPlannedExperts = 1'000'000;  // over all layers
constexpr JsonLimits kConfigLimits = {.max_depth = 16, .max_values = 100'000, .max_bytes = 16 << 20};

void ReadArchitecture(ConfigReader& in, ModelConfig& c) {
  c.model_type = in.String("model_type");
  in.RequireOneOf("model_type", c.model_type, kModelTypes, "architecture");
  const std::optional<JsonNode> architectures = in.Find("architectures");
  if (!in.ok() || !architectures) return;
  const nlohmann::json& list = architectures->value();
  if (!list.is_array() || list.size() != 1 || !list[0].is_string()) {
    in.Fail("architectures", "is not a list of one name");
    return;
  }
  in.RequireOneOf("architectures", list[0].get<std::string>(), kArchitectures, "architecture");
}

void ReadSizes(ConfigReader& in, ModelConfig& c) {
  c.vocab_size = in.Int("vocab_size", 1, kMaxSize);
  c.hidden_size = in.Int("hidden_size", 1, kMaxSize);
  c.num_hidden_layers = in.Int("num_hidden_layers", 1, kMaxLayers);
  c.num_nextn_predict_layers = in.Int("num_nextn_predict_layers", 0, kMaxLayers, 0);
  c.max_position_embeddings = in.Int("max_position_embeddings", 1, kMaxSize);
  c.rms_norm_eps = in.Number("rms_norm_eps", 0, 1);
  c.tie_word_embeddings = in.Bool("tie_word_embeddings", false);
  const std::string hidden_act = in.String("hidden_act", "silu");
  in.RequireOneOf("hidden_act", hidden_act, {"silu"}, "activation");
  // transformers 5 writes `dtype` where earlier versions wrote `torch_dtype`.
  const absl::string_view dtype_key = in.KeyOf({"dtype", "torch_dtype"});
  const std::string dtype = in.String(dtype_key, "bfloat16");
  in.RequireOneOf(dtype_key, dtype, {"bfloat16", "float32"}, "type");
  c.dtype = dtype == "float32" ? DType::kF32 : DType::kBF16;
}

void ReadAttention(ConfigReader& in, ModelConfig& c) {
  c.num_attention_heads = in.Int("num_attention_heads", 1, kMaxHeads);
  c.q_lora_rank = in.Int("q_lora_rank", 1, kMaxSize, 0);
  c.kv_lora_rank = in.Int("kv_lora_rank", 1, kMaxSize);
  c.qk_nope_head_dim = in.Int("qk_nope_head_dim", 1, kMaxHeadDim);
  c.qk_rope_head_dim = in.Int("qk_rope_head_dim", 2, kMaxHeadDim);
  c.v_head_dim = in.Int("v_head_dim", 1, kMaxHeadDim);
  if (in.Bool("attention_bias", false)) in.FailUnsupported("attention_bias", "is true; only false is supported");
  if (!in.Bool("rope_interleave", true)) in.FailUnsupported("rope_interleave", "is false; only true is supported");
}

void ReadExperts(ConfigReader& in, ModelConfig& c) {
  c.intermediate_size = in.Int("intermediate_size", 1, kMaxSize);
  c.moe_intermediate_size = in.Int("moe_intermediate_size", 1, kMaxSize);
  c.first_k_dense_replace = in.Int("first_k_dense_replace", 0, kMaxLayers);
  c.moe_layer_freq = in.Int("moe_layer_freq", 1, kMaxLayers, 1);
  // transformers takes the second name for the first.
  c.n_routed_experts = in.Int(in.KeyOf({"n_routed_experts", "num_local_experts"}), 1, kMaxExperts);
  c.n_shared_experts = in.Int("n_shared_experts", 0, kMaxExperts, 0);
  c.num_experts_per_tok = in.Int("num_experts_per_tok", 1, kMaxExpertsPerToken);
  c.n_group = in.Int("n_group", 1, kMaxExperts);
  c.topk_group = in.Int("topk_group", 1, kMaxExperts);
  c.norm_topk_prob = in.Bool("norm_topk_prob");
  c.routed_scaling_factor = in.Number("routed_scaling_factor", 1e-6, 1e6);
  const std::string scoring_func = in.String("scoring_func", "sigmoid");
  in.RequireOneOf("scoring_func", scoring_func, {"sigmoid"}, "scoring function");
  const std::string topk_method = in.String("topk_method", "noaux_tc");
  in.RequireOneOf("topk_method", topk_method, {"noaux_tc"}, "top-k method");
}

// What must hold between the numbers of the router.
void CheckExperts(ConfigReader& in, const ModelConfig& c) {
  if (!in.ok()) return;
  if (c.n_routed_experts * c.num_hidden_layers > kMaxPlannedExperts) {
    in.Fail("n_routed_experts", absl::StrCat("is ", c.n_routed_experts, ", which in ", c.num_hidden_layers,
                                             " layers makes more than ", kMaxPlannedExperts, " experts"));
  }
  if (c.n_routed_experts % c.n_group != 0) {
    in.Fail("n_group", absl::StrCat("is ", c.n_group, ", which does not divide n_routed_experts ", c.n_routed_experts));
    return;
  }
  const int64_t group_size = c.n_routed_experts / c.n_group;
  if (c.n_group > 1 && group_size < 2) {
    in.Fail("n_group", absl::StrCat("is ", c.n_group, ", which leaves groups of ", group_size, " of ",
                                    c.n_routed_experts, " experts; a group's score needs two"));
  }
  if (c.topk_group > c.n_group) {
    in.Fail("topk_group", absl::StrCat("is ", c.topk_group, ", more than n_group ", c.n_group));
  }
  if (c.num_experts_per_tok > c.topk_group * group_size) {
    in.Fail("num_experts_per_tok",
            absl::StrCat("is ", c.num_experts_per_tok, ", more than the ", c.topk_group * group_size,
                         " experts in topk_group ", c.topk_group, " groups of ", group_size));
  }
}

// The object that describes quantised weights. Some programs write it as compression_config, and configs of several
// models in one put it into their text_config.
absl::StatusOr<std::optional<JsonNode>> FindQuantization(ConfigReader& in) {
  std::optional<JsonNode> found = in.Object(in.KeyOf({"quantization_config", "compression_config"}));
  TF_RETURN_IF_ERROR(in.status());
  const std::optional<JsonNode> text = in.Find("text_config");
  if (!text || !text->value().is_object()) return found;
  TF_ASSIGN_OR_RETURN(const std::optional<JsonNode> nested, text->Optional("quantization_config"));
  if (found && nested) TF_RETURN_IF_ERROR(CheckSame(*found, *nested));
  if (!found) found = nested;
  return found;
}

absl::Status ReadQuantization(ConfigReader& in, ModelConfig& c) {
  TF_ASSIGN_OR_RETURN(const std::optional<JsonNode> object, FindQuantization(in));
  if (!object) return absl::OkStatus();
  ConfigReader quant(*object);
  const std::string method = quant.String("quant_method");
  quant.RequireOneOf("quant_method", method, kQuantMethods, "quantisation");
  const std::string format = quant.String("fmt", "e4m3");
  quant.RequireOneOf("fmt", format, {"e4m3"}, "FP8 format");
  const std::string scheme = quant.String("activation_scheme", "dynamic");
  quant.RequireOneOf("activation_scheme", scheme, {"dynamic"}, "activation scheme");
  const std::vector<int64_t> block = quant.IntOrList("weight_block_size", 1, kMaxHeadDim);
  TF_RETURN_IF_ERROR(quant.status());
  if (block.size() != 2 || block[0] != block[1]) {
    quant.FailUnsupported("weight_block_size", "must be two equal numbers, such as [128, 128]");
    return quant.status();
  }
  c.fp8_block = static_cast<int32_t>(block[0]);
  return absl::OkStatus();
}

std::vector<int32_t> ReadEndTokens(ConfigReader& in, int64_t vocab_size) {
  const std::vector<int64_t> ids = in.IntOrList("eos_token_id", 0, vocab_size - 1);
  return {ids.begin(), ids.end()};
}

absl::StatusOr<ModelConfig> ConfigOf(const JsonDocument& document) {
  ConfigReader in(document.root());
  ModelConfig config;
  ReadArchitecture(in, config);
  ReadSizes(in, config);
  ReadAttention(in, config);
  ReadExperts(in, config);
  CheckExperts(in, config);
  config.bos_token_id = static_cast<int32_t>(in.Int("bos_token_id", 0, config.vocab_size - 1, -1));
  config.eos_token_ids = ReadEndTokens(in, config.vocab_size);
  TF_RETURN_IF_ERROR(in.status());
  TF_RETURN_IF_ERROR(ReadRope(in, config));
  TF_RETURN_IF_ERROR(ReadQuantization(in, config));
  return config;
}

absl::StatusOr<GenerationConfig> GenerationConfigOf(const JsonDocument& document, const ModelConfig& model) {
  ConfigReader in(document.root());
  GenerationConfig config;
  config.eos_token_ids = in.Has("eos_token_id") ? ReadEndTokens(in, model.vocab_size) : model.eos_token_ids;
  if (in.Has("temperature")) config.temperature = in.Number("temperature", 0, 100);
  if (in.Has("top_p")) config.top_p = in.Number("top_p", 0, 1);
  TF_RETURN_IF_ERROR(in.status());
  return config;
}

}  // namespace

absl::StatusOr<ModelConfig> ParseModelConfig(absl::string_view text, absl::string_view name) {
  TF_ASSIGN_OR_RETURN(const JsonDocument document, JsonDocument::Parse(std::string(text), name, kConfigLimits));
  return ConfigOf(document);
}

absl::StatusOr<ModelConfig> LoadModelConfig(const std::string& model_dir) {
  TF_RETURN_IF_ERROR(CheckModelFolder(model_dir));
  TF_ASSIGN_OR_RETURN(const JsonDocument document,
                      JsonDocument::ReadFile(absl::StrCat(model_dir, "/config.json"), kConfigLimits));
  return ConfigOf(document);
}

absl::StatusOr<GenerationConfig> ParseGenerationConfig(absl::string_view text, absl::string_view name,
                                                       const ModelConfig& model) {
  TF_ASSIGN_OR_RETURN(const JsonDocument document, JsonDocument::Parse(std::string(text), name, kConfigLimits));
  return GenerationConfigOf(document, model);
}

absl::StatusOr<GenerationConfig> LoadGenerationConfig(const std::string& model_dir, const ModelConfig& model) {
  const std::string path = absl::StrCat(model_dir, "/generation_config.json");
  if (access(path.c_str(), F_OK) != 0) return GenerationConfig{.eos_token_ids = model.eos_token_ids};
  TF_ASSIGN_OR_RETURN(const JsonDocument document, JsonDocument::ReadFile(path, kConfigLimits));
  return GenerationConfigOf(document, model);
}

}  // namespace tokenferry

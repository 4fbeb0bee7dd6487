#include "runtime/model/model_config.h"

#include <unistd.h>

#include <nlohmann/json.hpp>

#include "core/io/json_file.h"
#include "core/io/range_file.h"
#include "runtime/model/config_reader.h"

namespace tokenferry {
namespace {

constexpr absl::string_view kModelTypes[] = {"deepseek_v3", "kimi_k2"};
constexpr absl::string_view kArchitectures[] = {"DeepseekV3ForCausalLM"};
constexpr absl::string_view kRopeTypes[] = {"default", "yarn"};
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

void ReadArchitecture(ConfigReader& in, const nlohmann::json& json, ModelConfig& c) {
  c.model_type = in.String("model_type");
  in.RequireOneOf("model_type", c.model_type, kModelTypes, "architecture");
  if (!in.ok() || !in.Has("architectures")) return;
  const nlohmann::json& list = json["architectures"];
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
  const char* dtype_key = in.Has("dtype") ? "dtype" : "torch_dtype";
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
  c.n_routed_experts = in.Int("n_routed_experts", 1, kMaxExperts);
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

// `type` is the older spelling of `rope_type`.
std::string ReadRopeType(ConfigReader& in) {
  const char* key = in.Has("rope_type") ? "rope_type" : "type";
  const std::string type = in.String(key);
  if (in.Has("rope_type") && in.Has("type") && in.String("type") != type) {
    in.Fail("type", absl::StrCat("differs from 'rope_type' '", Excerpt(type), "'"));
  }
  in.RequireOneOf(key, type, kRopeTypes, "rotary scaling");
  return type;
}

void ReadYarn(ConfigReader& in, RopeConfig& rope) {
  rope.scaling = RopeScaling::kYarn;
  rope.factor = in.Number("factor", 1, 1e6);
  rope.original_max_position = in.Int("original_max_position_embeddings", 1, kMaxSize);
  rope.beta_fast = in.Number("beta_fast", 1e-6, 1e6, rope.beta_fast);
  rope.beta_slow = in.Number("beta_slow", 1e-6, 1e6, rope.beta_slow);
  rope.mscale = in.Number("mscale", 0, 1e6, 0);
  rope.mscale_all_dim = in.Number("mscale_all_dim", 0, 1e6, 0);
  if (in.Has("attention_factor")) rope.attention_factor = in.Number("attention_factor", 1e-6, 1e6);
  rope.truncate = in.Bool("truncate", true);
}

absl::Status ReadRope(ConfigReader& in, absl::string_view name, ModelConfig& c) {
  c.rope.dim = c.qk_rope_head_dim;
  c.rope.max_position = c.max_position_embeddings;
  // transformers 5 has everything in `rope_parameters`; before, `rope_theta` stood beside `rope_scaling`.
  const char* key = in.Has("rope_parameters") ? "rope_parameters" : "rope_scaling";
  const nlohmann::json* object = in.Object(key);
  if (!in.ok()) return in.status();
  const nlohmann::json none = {{"rope_type", "default"}};
  ConfigReader rope(object != nullptr ? *object : none, absl::StrCat(name, ": ", key));
  const std::string type = ReadRopeType(rope);
  c.rope.theta = rope.Has("rope_theta") ? rope.Number("rope_theta", 1.001, 1e12) : in.Number("rope_theta", 1.001, 1e12);
  const double partial = rope.Number("partial_rotary_factor", 0, 1, 1);
  if (partial != 1)
    rope.FailUnsupported("partial_rotary_factor", absl::StrCat("is ", partial, "; only 1 is supported"));
  if (type == "yarn") ReadYarn(rope, c.rope);
  TF_RETURN_IF_ERROR(rope.status());
  TF_RETURN_IF_ERROR(in.status());
  return Annotate(ValidateRope(c.rope), absl::StrCat(name, ": ", key));
}

absl::Status ReadQuantization(ConfigReader& in, absl::string_view name, ModelConfig& c) {
  const nlohmann::json* object = in.Object("quantization_config");
  if (!in.ok() || object == nullptr) return in.status();
  ConfigReader quant(*object, absl::StrCat(name, ": quantization_config"));
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

}  // namespace

absl::StatusOr<ModelConfig> ParseModelConfig(absl::string_view text, absl::string_view name) {
  TF_ASSIGN_OR_RETURN(const nlohmann::json json, ParseJson(text, name, kConfigLimits));
  ConfigReader in(json, name);
  ModelConfig config;
  ReadArchitecture(in, json, config);
  ReadSizes(in, config);
  ReadAttention(in, config);
  ReadExperts(in, config);
  CheckExperts(in, config);
  config.bos_token_id = static_cast<int32_t>(in.Int("bos_token_id", 0, config.vocab_size - 1, -1));
  config.eos_token_ids = ReadEndTokens(in, config.vocab_size);
  TF_RETURN_IF_ERROR(in.status());
  TF_RETURN_IF_ERROR(ReadRope(in, name, config));
  TF_RETURN_IF_ERROR(ReadQuantization(in, name, config));
  return config;
}

absl::StatusOr<ModelConfig> LoadModelConfig(const std::string& model_dir) {
  const std::string path = absl::StrCat(model_dir, "/config.json");
  TF_ASSIGN_OR_RETURN(const std::string text, ReadTextFile(path, kConfigLimits.max_bytes));
  return ParseModelConfig(text, path);
}

absl::StatusOr<GenerationConfig> ParseGenerationConfig(absl::string_view text, absl::string_view name,
                                                       const ModelConfig& model) {
  TF_ASSIGN_OR_RETURN(const nlohmann::json json, ParseJson(text, name, kConfigLimits));
  ConfigReader in(json, name);
  GenerationConfig config;
  config.eos_token_ids = in.Has("eos_token_id") ? ReadEndTokens(in, model.vocab_size) : model.eos_token_ids;
  if (in.Has("temperature")) config.temperature = in.Number("temperature", 0, 1e3);
  if (in.Has("top_p")) config.top_p = in.Number("top_p", 1e-9, 1);
  TF_RETURN_IF_ERROR(in.status());
  return config;
}

absl::StatusOr<GenerationConfig> LoadGenerationConfig(const std::string& model_dir, const ModelConfig& model) {
  const std::string path = absl::StrCat(model_dir, "/generation_config.json");
  if (access(path.c_str(), F_OK) != 0) return GenerationConfig{.eos_token_ids = model.eos_token_ids};
  TF_ASSIGN_OR_RETURN(const std::string text, ReadTextFile(path, kConfigLimits.max_bytes));
  return ParseGenerationConfig(text, path, model);
}

}  // namespace tokenferry

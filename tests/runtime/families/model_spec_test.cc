#include <gtest/gtest.h>

#include <cstdlib>
#include <nlohmann/json.hpp>

#include "runtime/families/families.h"
#include "tests/support/checkpoint_writer.h"
#include "tests/support/status_matchers.h"

namespace tokenferry::testing {
namespace {

using nlohmann::json;

std::string TinyModelDir() { return std::string(std::getenv("TF_SOURCE_DIR")) + "/models/ferry-tiny-v3"; }

json TinyJson() { return json::parse(ReadFile(TinyModelDir() + "/config.json")); }

absl::StatusOr<ModelSpec> Parse(const json& config) { return ParseModelSpec(config.dump(), "c.json"); }

// The shipped config with one key set to another value.
absl::StatusOr<ModelSpec> SpecWith(const char* key, const json& value) {
  json config = TinyJson();
  config[key] = value;
  return Parse(config);
}
absl::StatusOr<ModelSpec> SpecWithout(const char* key) {
  json config = TinyJson();
  config.erase(key);
  return Parse(config);
}

TEST(ModelSpec, ReadsTheShippedModel) {
  const auto config = LoadModelSpec(TinyModelDir());
  ASSERT_OK(config);
  EXPECT_EQ(config->model_type, "deepseek_v3");
  EXPECT_EQ(config->vocab_size, 2304);
  EXPECT_EQ(config->hidden_size, 256);
  EXPECT_EQ(config->num_layers(), 5);
  EXPECT_EQ(config->max_position_embeddings, 4096);
  EXPECT_EQ(config->norm_eps, 1e-6f);
  EXPECT_FALSE(config->tie_word_embeddings);
  EXPECT_EQ(config->dtype, DType::kBF16);
  const AttentionSpec& attention = config->layers[0].attention;
  EXPECT_EQ(attention.kind, AttentionKind::kLatent);
  EXPECT_EQ(attention.num_heads, 4);
  EXPECT_EQ(attention.q_lora_rank, 128);
  EXPECT_EQ(attention.kv_lora_rank, 128);
  EXPECT_EQ(attention.nope_dim, 64);
  EXPECT_EQ(attention.rope_dim, 32);
  EXPECT_EQ(attention.value_dim, 64);
  EXPECT_EQ(config->layers[0].dense_intermediate, 512);
  EXPECT_EQ(config->moe.intermediate, 128);
  EXPECT_EQ(config->moe.num_experts, 32);
  EXPECT_EQ(config->moe.shared_intermediate, 128);
  EXPECT_EQ(config->moe.router.top_k, 4);
  EXPECT_EQ(config->moe.router.num_groups, 4);
  EXPECT_EQ(config->moe.router.groups_kept, 2);
  EXPECT_EQ(config->moe.router.renormalise, Renormalise::kYes);
  EXPECT_EQ(config->moe.router.scaling, 2.5);
  EXPECT_EQ(config->quant.block_rows, 128);
  EXPECT_EQ(config->bos_token_id, 0);
  EXPECT_EQ(config->eos_token_ids, std::vector<int32_t>{1});
  EXPECT_FALSE(config->layers[0].is_moe);
  EXPECT_TRUE(config->layers[1].is_moe);
  EXPECT_EQ(config->moe.router.scoring, Scoring::kSigmoid);
  EXPECT_EQ(config->moe.router.group_score, GroupScore::kSumOfTwoLargest);
  EXPECT_TRUE(config->moe.has_choice_bias);
  const RopeConfig& rope = config->rope;
  EXPECT_EQ(rope.theta, 10000);
  EXPECT_EQ(rope.dim, 32);
  EXPECT_EQ(rope.max_position, 4096);
  EXPECT_EQ(rope.scaling, RopeScaling::kYarn);
  EXPECT_EQ(rope.factor, 4);
  EXPECT_EQ(rope.original_max_position, 1024);
  EXPECT_EQ(rope.beta_fast, 32);
  EXPECT_EQ(rope.beta_slow, 1);
  EXPECT_EQ(rope.mscale, 1);
  EXPECT_EQ(rope.mscale_all_dim, 1);
}

TEST(ModelSpec, EveryShapeKeyMustBeThere) {
  for (const char* key : {"model_type",
                          "vocab_size",
                          "hidden_size",
                          "num_hidden_layers",
                          "max_position_embeddings",
                          "rms_norm_eps",
                          "num_attention_heads",
                          "kv_lora_rank",
                          "qk_nope_head_dim",
                          "qk_rope_head_dim",
                          "v_head_dim",
                          "intermediate_size",
                          "moe_intermediate_size",
                          "first_k_dense_replace",
                          "n_routed_experts",
                          "num_experts_per_tok",
                          "n_group",
                          "topk_group",
                          "norm_topk_prob",
                          "routed_scaling_factor",
                          "rope_theta"}) {
    EXPECT_ERROR(SpecWithout(key), kInvalid, "c.json: ", absl::StrCat("'", key, "' is missing"));
    EXPECT_ERROR(SpecWith(key, nullptr), kInvalid, absl::StrCat("'", key, "' is missing"));
    EXPECT_ERROR(SpecWith(key, json::array()), kInvalid, absl::StrCat("'", key, "' is a list of 0 instead of"));
  }
}

TEST(ModelSpec, OptionalKeysHaveTheirDefaults) {
  json config = TinyJson();
  for (const char* key :
       {"architectures", "moe_layer_freq", "scoring_func", "topk_method", "hidden_act", "attention_bias",
        "tie_word_embeddings", "quantization_config", "rope_scaling", "torch_dtype", "eos_token_id", "bos_token_id",
        "q_lora_rank", "num_nextn_predict_layers", "n_shared_experts"}) {
    config.erase(key);
  }
  const auto parsed = Parse(config);
  ASSERT_OK(parsed);
  EXPECT_FALSE(parsed->quant.is_quantised());
  EXPECT_EQ(parsed->rope.scaling, RopeScaling::kNone);
  EXPECT_EQ(parsed->layers[0].attention.q_lora_rank, 0);
  EXPECT_EQ(parsed->moe.shared_intermediate, 0);
  EXPECT_TRUE(parsed->eos_token_ids.empty());
  EXPECT_EQ(parsed->bos_token_id, -1);
  EXPECT_EQ(parsed->num_moe_layers(), 4);
}

TEST(ModelSpec, AcceptsBothSpellings) {
  json config = TinyJson();
  json rope = config["rope_scaling"];
  rope.erase("type");
  rope["rope_type"] = "yarn";
  rope["rope_theta"] = 50000.0;
  config.erase("rope_scaling");
  config.erase("rope_theta");
  config.erase("torch_dtype");
  config["rope_parameters"] = rope;
  config["dtype"] = "float32";
  config["model_type"] = "kimi_k2";
  config["eos_token_id"] = {7, 9};
  const auto parsed = Parse(config);
  ASSERT_OK(parsed);
  EXPECT_EQ(parsed->rope.theta, 50000);
  EXPECT_EQ(parsed->rope.scaling, RopeScaling::kYarn);
  EXPECT_EQ(parsed->rope.factor, 4);
  EXPECT_EQ(parsed->dtype, DType::kF32);
  EXPECT_EQ(parsed->eos_token_ids, (std::vector<int32_t>{7, 9}));
  config["rope_parameters"] = {{"rope_type", "default"}, {"rope_theta", 1e6}};
  const auto plain = Parse(config);
  ASSERT_OK(plain);
  EXPECT_EQ(plain->rope.scaling, RopeScaling::kNone);
  EXPECT_EQ(plain->rope.theta, 1e6);
}

// What one setting is called in two places is equal, or an error that names both with their values.
TEST(ModelSpec, RefusesTwoValuesForOneSetting) {
  json yarn = TinyJson()["rope_scaling"];
  yarn.erase("type");
  yarn["rope_type"] = "yarn";
  ASSERT_OK(SpecWith("rope_parameters", yarn));  // the same in the newer spelling
  yarn["rope_theta"] = 10000;
  yarn["attention_factor"] = nullptr;
  ASSERT_OK(SpecWith("rope_parameters", yarn));
  const auto without_type = SpecWith("rope_parameters", {{"rope_theta", 10000.0}});
  ASSERT_OK(without_type);  // says nothing about scaling
  EXPECT_EQ(without_type->rope.scaling, RopeScaling::kYarn);
  EXPECT_ERROR(SpecWith("rope_parameters", {{"rope_type", "default"}, {"rope_theta", 10000}}), kInvalid,
               "c.json:1:", "'rope_scaling.rope_type' is yarn, but 'rope_parameters.rope_type' is default");
  EXPECT_ERROR(SpecWith("rope_parameters", {{"rope_theta", 20000}}), kInvalid,
               "'rope_parameters.rope_theta' is 20000, but 'rope_theta' is 10000");
  for (const auto& [key, value] : {std::pair<const char*, json>{"factor", 8},
                                   {"original_max_position_embeddings", 512},
                                   {"beta_fast", 16},
                                   {"beta_slow", 2},
                                   {"mscale", 0.5},
                                   {"mscale_all_dim", 0.5},
                                   {"attention_factor", 1.5}}) {
    json other = yarn;
    other[key] = value;
    EXPECT_ERROR(SpecWith("rope_parameters", other), kInvalid, absl::StrCat("'rope_scaling.", key, "' is "),
                 absl::StrCat("but 'rope_parameters.", key, "' is ", value.dump()));
  }
  EXPECT_ERROR(
      SpecWith("original_max_position_embeddings", 2048), kInvalid,
      "'rope_scaling.original_max_position_embeddings' is 1024, but 'original_max_position_embeddings' is 2048");
  EXPECT_ERROR(SpecWith("dtype", "float32"), kInvalid, "'torch_dtype' is \"bfloat16\", but 'dtype' is \"float32\"");
  ASSERT_OK(SpecWith("dtype", "bfloat16"));
  ASSERT_OK(SpecWith("num_local_experts", 32));
  EXPECT_ERROR(SpecWith("num_local_experts", 8), kInvalid, "'num_local_experts' is 8, but 'n_routed_experts' is 32");
}

TEST(ModelSpec, RefusesTwoQuantisations) {
  const json quant = TinyJson()["quantization_config"];
  json other = quant;
  other["weight_block_size"] = {64, 64};
  ASSERT_OK(SpecWith("compression_config", quant));
  ASSERT_OK(SpecWith("text_config", {{"quantization_config", quant}}));
  EXPECT_ERROR(SpecWith("compression_config", other), kInvalid, "'compression_config.weight_block_size' is a list of 2",
               "'quantization_config.weight_block_size'");
  EXPECT_ERROR(SpecWith("text_config", {{"quantization_config", other}}), kInvalid,
               "'text_config.quantization_config.weight_block_size'");
  other = quant;
  other.erase("fmt");
  EXPECT_ERROR(SpecWith("compression_config", other), kInvalid, "'compression_config.fmt' is not there",
               "'quantization_config.fmt' is \"e4m3\"");
  json nested = TinyJson();
  nested["text_config"] = {{"quantization_config", quant}};
  nested.erase("quantization_config");
  EXPECT_EQ(Parse(nested)->quant.block_cols, 128);
}

// As transformers reads them.
TEST(ModelSpec, FillsInWhatRopeLeavesOut) {
  json config = TinyJson();
  config["rope_scaling"] = json::object();
  EXPECT_EQ(Parse(config)->rope.scaling, RopeScaling::kNone);
  config["rope_scaling"] = nullptr;
  config["rope_parameters"] = {{"rope_theta", 10000}};
  EXPECT_EQ(Parse(config)->rope.scaling, RopeScaling::kNone);
  config["rope_scaling"] = {{"type", "yarn"}, {"factor", 4}, {"beta_fast", nullptr}};
  const auto whole_context = Parse(config);
  ASSERT_OK(whole_context);
  EXPECT_EQ(whole_context->rope.original_max_position, 4096);
  EXPECT_EQ(whole_context->rope.factor, 4);
  EXPECT_EQ(whole_context->rope.beta_fast, 32);
  config["rope_scaling"] = {{"type", "yarn"}, {"factor", nullptr}, {"original_max_position_embeddings", 512}};
  EXPECT_EQ(Parse(config)->rope.factor, 8);
  config["rope_scaling"] = {{"type", "yarn"}, {"factor", nullptr}};
  EXPECT_ERROR(Parse(config), kInvalid, "'rope_scaling.factor' is missing");
  config["rope_scaling"] = {{"type", "yarn"}, {"rope_type", "yarn"}, {"factor", 4}};
  config["original_max_position_embeddings"] = 1024;
  EXPECT_EQ(Parse(config)->rope.original_max_position, 1024);
  config["rope_parameters"] = {{"full_attention", {{"rope_type", "yarn"}}}};
  EXPECT_ERROR(Parse(config), kUnimplemented, "'rope_parameters.full_attention' is an object");
}

TEST(ModelSpec, LinearAndDynamicRope) {
  const auto linear = SpecWith("rope_scaling", {{"type", "linear"}, {"factor", 4}});
  ASSERT_OK(linear);
  EXPECT_EQ(linear->rope.scaling, RopeScaling::kFactors);
  EXPECT_EQ(linear->rope.factors, std::vector<double>(16, 4.0));
  const auto plain = SpecWithout("rope_scaling"),
             dynamic = SpecWith("rope_scaling", {{"type", "dynamic"}, {"factor", 4}});
  ASSERT_OK(plain);
  ASSERT_OK(dynamic);
  EXPECT_TRUE(*dynamic == *plain);  // nothing is served beyond max_position_embeddings
  EXPECT_EQ(linear->layers[0].attention.scale, plain->layers[0].attention.scale);
  for (const char* type : {"linear", "dynamic"}) {
    json scaling = {{"rope_type", type}};
    EXPECT_ERROR(SpecWith("rope_scaling", scaling), kInvalid, "'rope_scaling.factor' is missing");
    scaling["factor"] = 0.5;
    EXPECT_ERROR(SpecWith("rope_scaling", scaling), kInvalid, "'rope_scaling.factor' is 0.5");
  }
}

TEST(ModelSpec, ErrorsNameThePlace) {
  EXPECT_ERROR(ParseModelSpec("{\n  \"model_type\": \"deepseek_v3\",\n  \"vocab_size\": -3}", "c.json"), kInvalid,
               "c.json:3:17: 'vocab_size' is -3, not within");
  EXPECT_ERROR(ParseModelSpec("version https://git-lfs.github.com/spec/v1\n", "c.json"), kInvalid,
               "c.json:1:1: is a Git LFS pointer");
}

TEST(ModelSpec, MoeLayersFollowTheirFrequency) {
  json config = TinyJson();
  config["moe_layer_freq"] = 2;
  const auto parsed = Parse(config);
  ASSERT_OK(parsed);
  std::vector<int> moe_layers;
  for (int i = 0; i < 5; ++i) {
    if (parsed->layers[i].is_moe) moe_layers.push_back(i);
  }
  EXPECT_EQ(moe_layers, (std::vector<int>{2, 4}));
}

TEST(ModelSpec, RefusesUnknownKindsByName) {
  EXPECT_ERROR(SpecWith("model_type", "deepseek_v9"), kUnimplemented, "c.json:1:", ": 'model_type'", "'deepseek_v9'",
               "known: ", "deepseek_v2, deepseek_v3, kimi_k2", "mixtral", "qwen3_moe");
  EXPECT_ERROR(SpecWith("architectures", {"DeepseekV32ForCausalLM"}), kUnimplemented, "'DeepseekV32ForCausalLM'",
               "known: DeepseekV3ForCausalLM");
  EXPECT_ERROR(SpecWith("architectures", "x"), kInvalid, "'architectures' is not a list of one name");
  EXPECT_ERROR(SpecWith("scoring_func", "softmax"), kUnimplemented, "'scoring_func'", "'softmax'", "known: sigmoid");
  EXPECT_ERROR(SpecWith("topk_method", "greedy"), kUnimplemented, "'topk_method'", "'greedy'", "known: noaux_tc");
  EXPECT_ERROR(SpecWith("hidden_act", "gelu"), kUnimplemented, "'hidden_act'", "'gelu'", "known: silu");
  EXPECT_ERROR(SpecWith("torch_dtype", "int8"), kUnimplemented, "'torch_dtype'", "'int8'");
  EXPECT_ERROR(SpecWith("attention_bias", true), kUnimplemented, "'attention_bias' is true");
  EXPECT_ERROR(SpecWith("rope_interleave", false), kUnimplemented, "'rope_interleave' is false");
}

TEST(ModelSpec, RefusesUnknownQuantisation) {
  const auto with_quant = [](const char* key, const json& value) {
    json config = TinyJson();
    config["quantization_config"][key] = value;
    return Parse(config);
  };
  EXPECT_ERROR(with_quant("quant_method", "bitsandbytes"), kUnimplemented, "'quantization_config.quant_method'",
               "'bitsandbytes'", "known: fp8");
  EXPECT_ERROR(with_quant("fmt", "e5m2"), kUnimplemented, "'e5m2'");
  EXPECT_ERROR(with_quant("activation_scheme", "none"), kUnimplemented, "'none'");
  EXPECT_ERROR(with_quant("weight_block_size", 128), kUnimplemented,
               "'quantization_config.weight_block_size' must be two numbers");
  EXPECT_ERROR(with_quant("weight_block_size", {0, 0}), kInvalid,
               "'quantization_config.weight_block_size[0]' is 0, not within [1,");
  EXPECT_ERROR(with_quant("weight_block_size", {128, "128"}), kInvalid, "\"128\" instead of an integer");
  EXPECT_ERROR(SpecWith("quantization_config", "fp8"), kInvalid,
               "'quantization_config' is \"fp8\" instead of an object");
}

TEST(ModelSpec, RefusesUnusableRope) {
  const auto with_rope = [](const char* key, const json& value) {
    json config = TinyJson();
    config["rope_scaling"][key] = value;
    return Parse(config);
  };
  EXPECT_ERROR(with_rope("type", "ntk"), kUnimplemented, "'rope_scaling.type'", "'ntk'",
               "known: default, yarn, llama3, longrope, linear, dynamic");
  EXPECT_ERROR(with_rope("rope_type", "linear"), kInvalid,
               "'rope_scaling.type' is \"yarn\", but 'rope_scaling.rope_type' is \"linear\"");
  EXPECT_ERROR(with_rope("type", nullptr), kInvalid, "'rope_scaling.factor' is there, but no 'rope_type'");
  EXPECT_ERROR(with_rope("factor", -2), kInvalid, "'rope_scaling.factor' is -2");
  EXPECT_ERROR(with_rope("beta_fast", "x"), kInvalid, "'rope_scaling.beta_fast' is \"x\" instead of a number");
  EXPECT_ERROR(with_rope("partial_rotary_factor", 0.5), kUnimplemented, "'rope_scaling.partial_rotary_factor' is 0.5");
  EXPECT_ERROR(SpecWith("rope_scaling", 4), kInvalid, "'rope_scaling' is 4 instead of an object");
  EXPECT_ERROR(SpecWith("qk_rope_head_dim", 31), kInvalid, "'rope_scaling'", "31");
  EXPECT_ERROR(SpecWith("rope_theta", -1), kInvalid, "'rope_theta' is -1");
}

TEST(ModelSpec, RefusesNumbersOutOfRange) {
  EXPECT_ERROR(SpecWith("hidden_size", 0), kInvalid, "'hidden_size' is 0, not within [1, 16777216]");
  EXPECT_ERROR(SpecWith("hidden_size", -256), kInvalid, "'hidden_size' is -256");
  EXPECT_ERROR(SpecWith("hidden_size", uint64_t{1} << 63), kInvalid, "'hidden_size' is 9223372036854775808");
  EXPECT_ERROR(SpecWith("hidden_size", 256.0), kInvalid, "'hidden_size' is 256.0 instead of an integer");
  EXPECT_ERROR(SpecWith("hidden_size", true), kInvalid, "'hidden_size' is true instead of an integer");
  EXPECT_ERROR(SpecWith("vocab_size", int64_t{1} << 40), kInvalid, "'vocab_size'");
  EXPECT_ERROR(SpecWith("num_hidden_layers", 100000), kInvalid, "'num_hidden_layers' is 100000");
  EXPECT_ERROR(SpecWith("rms_norm_eps", -1e-6), kInvalid, "'rms_norm_eps' is -1e-06");
  EXPECT_ERROR(SpecWith("eos_token_id", 2304), kInvalid, "'eos_token_id' is 2304, not within [0, 2303]");
  EXPECT_ERROR(SpecWith("eos_token_id", {1, -5}), kInvalid, "'eos_token_id[1]' is -5");
  EXPECT_ERROR(SpecWith("bos_token_id", 2304), kInvalid, "'bos_token_id' is 2304");
  EXPECT_ERROR(SpecWith("num_experts_per_tok", 33), kInvalid, "'num_experts_per_tok' is 33, not within [1, 32]");
  EXPECT_ERROR(SpecWith("routed_scaling_factor", 0), kInvalid, "'routed_scaling_factor' is 0");
}

TEST(ModelSpec, RefusesImpossibleRouters) {
  EXPECT_ERROR(SpecWith("n_group", 5), kInvalid, "'n_group' is 5, which does not divide n_routed_experts 32");
  EXPECT_ERROR(SpecWith("n_group", 32), kInvalid, "'n_group' is 32, which leaves groups of 1 of 32 experts");
  EXPECT_ERROR(SpecWith("topk_group", 5), kInvalid, "'topk_group' is 5, more than n_group 4");
  EXPECT_ERROR(SpecWith("num_experts_per_tok", 17), kInvalid, "'num_experts_per_tok' is 17, more than the 16 experts",
               "topk_group 2 groups of 8");
  json config = TinyJson();
  config["n_routed_experts"] = 4096;
  config["num_hidden_layers"] = 500;
  EXPECT_ERROR(Parse(config), kInvalid, "'n_routed_experts' is 4096, which in 500 layers");
}

TEST(ModelSpec, RefusesWhatIsNoConfig) {
  EXPECT_ERROR(ParseModelSpec("", "c.json"), kInvalid, "c.json:1:1: is empty");
  EXPECT_ERROR(ParseModelSpec("[]", "c.json"), kInvalid, "c.json: is a list of 0 instead of an object");
  EXPECT_ERROR(ParseModelSpec(R"({"model_type":"deepseek_v3","model_type":"x"})", "c.json"), kInvalid, "twice");
  EXPECT_ERROR(ParseModelSpec(std::string(100'000, '['), "c.json"), kInvalid, "nested deeper than 16");
  EXPECT_ERROR(LoadModelSpec("/no/such/dir"), absl::StatusCode::kNotFound, "/no/such/dir: there is no such folder");
}

}  // namespace
}  // namespace tokenferry::testing

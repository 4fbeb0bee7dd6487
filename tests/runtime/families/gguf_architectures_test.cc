// Every architecture of GGUF files: a family of tests/data/families as its converter would write it, against what
// transformers computes.
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>

#include "runtime/families/families.h"
#include "runtime/model/generation_config.h"
#include "tests/runtime/families/gguf_converter.h"
#include "tests/runtime/families/gguf_golden.h"
#include "tests/support/checkpoint_writer.h"
#include "tests/support/status_matchers.h"

namespace tokenferry {
namespace {

using nlohmann::json;

const std::map<std::string, std::string> kDeepSeekKeys = {
    {"expert_count", "n_routed_experts"},        {"expert_feed_forward_length", "moe_intermediate_size"},
    {"expert_shared_count", "n_shared_experts"}, {"expert_weights_scale", "routed_scaling_factor"},
    {"expert_weights_norm", "norm_topk_prob"},   {"expert_group_count", "n_group"},
    {"expert_group_used_count", "topk_group"},   {"leading_dense_block_count", "first_k_dense_replace"}};

// `more` goes before `keys`, which stay.
std::map<std::string, std::string> With(std::map<std::string, std::string> keys,
                                        const std::map<std::string, std::string>& more) {
  keys.insert(more.begin(), more.end());
  return keys;
}

std::vector<Conversion> Conversions() {
  const std::map<std::string, std::string> granite = {
      {"expert_count", "num_local_experts"},       {"expert_shared_feed_forward_length", "shared_intermediate_size"},
      {"attention.scale", "attention_multiplier"}, {"embedding_scale", "embedding_multiplier"},
      {"residual_scale", "residual_multiplier"},   {"logit_scale", "logits_scaling"}};
  return {
      {.family = "qwen2_moe",
       .architecture = "qwen2moe",
       .keys = {{"expert_count", "num_experts"},
                {"expert_feed_forward_length", "moe_intermediate_size"},
                {"expert_shared_feed_forward_length", "shared_expert_intermediate_size"}}},
      {.family = "olmoe", .architecture = "olmoe", .keys = {{"expert_count", "num_experts"}}},
      {.family = "granitemoe", .architecture = "granitemoe", .keys = granite, .permutes = true},
      {.family = "granitemoeshared", .architecture = "granitemoe", .keys = granite, .permutes = true},
      {.family = "minimax_m2",
       .architecture = "minimax-m2",
       .keys = {{"expert_count", "num_local_experts"},
                {"expert_feed_forward_length", "intermediate_size"},
                {"attention.key_length", "head_dim"},
                {"rope.dimension_count", "rotary_dim"}},
       .values = {{"expert_gating_func", 2}}},
      {.family = "gpt_oss",
       .architecture = "gpt-oss",
       .keys = {{"expert_count", "num_local_experts"},
                {"expert_feed_forward_length", "intermediate_size"},
                {"attention.key_length", "head_dim"},
                {"attention.sliding_window", "sliding_window"}},
       .values = {{"rope.scaling.type", "yarn"},
                  {"rope.scaling.factor", 32.0},
                  {"rope.scaling.original_context_length", 4096}}},
      {.family = "glm4_moe",
       .architecture = "glm4moe",
       .keys = With({{"attention.key_length", "head_dim"}}, kDeepSeekKeys),
       .values =
           {{"block_count", 4}, {"nextn_predict_layers", 1}, {"rope.dimension_count", 8}, {"expert_gating_func", 2}}},
      {.family = "deepseek_v3",
       .architecture = "deepseek2",
       .keys = With({{"attention.q_lora_rank", "q_lora_rank"},
                     {"attention.kv_lora_rank", "kv_lora_rank"},
                     {"attention.value_length_mla", "v_head_dim"},
                     {"rope.dimension_count", "qk_rope_head_dim"}},
                    kDeepSeekKeys),
       .values = {{"attention.key_length_mla", 24},
                  {"attention.key_length", 40},
                  {"attention.value_length", 32},
                  {"expert_gating_func", 2},
                  {"rope.scaling.type", "yarn"},
                  {"rope.scaling.factor", 40.0},
                  {"rope.scaling.original_context_length", 4096},
                  {"rope.scaling.yarn_log_multiplier", 0.1}},
       .splits_kv_b = true},
      {.family = "deepseek_v2",
       .architecture = "deepseek2",
       .keys = With({{"attention.q_lora_rank", "q_lora_rank"},
                     {"attention.kv_lora_rank", "kv_lora_rank"},
                     {"attention.value_length", "v_head_dim"},
                     {"rope.dimension_count", "qk_rope_head_dim"}},
                    kDeepSeekKeys),
       .values = {{"attention.key_length", 24},
                  {"rope.scaling.type", "yarn"},
                  {"rope.scaling.factor", 40.0},
                  {"rope.scaling.original_context_length", 4096},
                  {"rope.scaling.yarn_log_multiplier", 0.1}}},
  };
}

TEST(GgufGolden, OtherArchitecturesComputeTheSame) {
  for (const Conversion& conversion : Conversions()) {
    SCOPED_TRACE(conversion.family);
    testing::TempDir temp;
    const std::string path = temp.path() + "/m.gguf";
    WriteConverted(conversion, path);
    const auto read = LoadModelSpec(path);
    ASSERT_OK(read);
    const auto ids = Golden<int32_t>(conversion.family, "long.input_ids");
    const auto logits = RunLocally(SetupOf(path, 2), {LogitsRequest(ids)})[0].logits;
    EXPECT_LE(WorstShare(logits, Golden<float>(conversion.family, "long.logits")), 1);
  }
}

Conversion Mixtral() {
  return {.family = "mixtral",
          .architecture = "llama",
          .keys = {{"expert_count", "num_local_experts"}},
          .values = {{"rope.dimension_count", 16}},
          .permutes = true};
}

// Rows of q and k are permuted in Mixtral's file; all else is as on the hub, but for names.
TEST(GgufGolden, MixtralIsTheModelThatWasConverted) {
  testing::TempDir temp;
  const std::string path = temp.path() + "/m.gguf";
  WriteConverted(Mixtral(), path);
  const auto got = LoadModelSpec(path), hub = LoadModelSpec(FamilyDir("mixtral"));
  ASSERT_OK(got);
  ASSERT_OK(hub);
  ModelSpec want = *hub;
  want.dtype = DType::kF32;
  want.layer_prefix = "blk.";
  want.fused = FusedExperts::kStacked;
  want.fused_instead.reset();
  want.names = got->names;
  for (LayerSpec& layer : want.layers) layer.attention.rope_layout = RopeLayout::kInterleaved;
  EXPECT_TRUE(*got == want);
  const auto generation = LoadGenerationConfig(path, *got);
  ASSERT_OK(generation);
  EXPECT_EQ(generation->eos_token_ids, hub->eos_token_ids);
  ExpectResultsOf("mixtral", path);
}

// A folder with the family's tensors and another config.json.
void WriteChanged(const std::string& family, const std::string& dir, const std::function<void(json&)>& change) {
  json config = json::parse(testing::ReadFile(FamilyDir(family) + "/config.json"));
  change(config);
  testing::WriteFile(dir + "/config.json", config.dump());
  std::filesystem::create_symlink(FamilyDir(family) + "/model.safetensors", dir + "/model.safetensors");
}

// What Llama's converter makes of rope_scaling of type llama3: a factor for each pair of values that turn.
std::vector<float> Llama3Factors(const json& config, int64_t dim) {
  const json& scaling = config["rope_scaling"];
  const double factor = scaling["factor"], low = scaling["low_freq_factor"], high = scaling["high_freq_factor"];
  const double original = scaling["original_max_position_embeddings"], theta = config["rope_theta"];
  std::vector<float> factors;
  for (int64_t i = 0; i < dim / 2; ++i) {
    const double wavelength = 2 * M_PI * std::pow(theta, 2.0 * static_cast<double>(i) / static_cast<double>(dim));
    const double smooth = (original / wavelength - low) / (high - low);
    double divisor = 1 / ((1 - smooth) / factor + smooth);
    if (wavelength < original / high) divisor = 1;
    if (wavelength > original / low) divisor = factor;
    factors.push_back(static_cast<float>(divisor));
  }
  return factors;
}

std::vector<float> Logits(const std::string& family, const std::string& prompt, const std::string& path) {
  return RunLocally(SetupOf(path, 2), {LogitsRequest(Golden<int32_t>(family, prompt + ".input_ids"))})[0].logits;
}

// Factors of the rotation in a tensor: the model whose config.json has the numbers that they were made of.
TEST(GgufGolden, RopeFactorsAreLlama3s) {
  testing::TempDir temp;
  json changed;
  WriteChanged("mixtral", temp.path(), [&](json& config) {
    config["rope_theta"] = 1000.0;  // so that pairs of every kind turn within the prompt
    config["rope_scaling"] = {{"rope_type", "llama3"},
                              {"factor", 8.0},
                              {"low_freq_factor", 1.0},
                              {"high_freq_factor", 4.0},
                              {"original_max_position_embeddings", 64}};
    changed = config;
  });
  Conversion conversion = Mixtral();
  conversion.values["rope.freq_base"] = 1000.0;
  const std::string plain = temp.path() + "/plain.gguf", path = temp.path() + "/m.gguf";
  WriteConverted(conversion, plain);
  conversion.rope_factors = {{"rope_freqs.weight", Llama3Factors(changed, 16)}};
  WriteConverted(conversion, path);
  const std::vector<float> want = Logits("mixtral", "long", temp.path());
  EXPECT_LE(WorstShare(Logits("mixtral", "long", path), want), 1);
  EXPECT_GT(WorstShare(Logits("mixtral", "long", plain), want), 10);
}

// Its files do not say how long chunks are, nor where temperatures begin: 8192 for both. So they are for the prompt
// that is shorter than the chunks of the folder's config, and for the other one with that number in it.
TEST(GgufGolden, Llama4ComputesTheSame) {
  testing::TempDir temp;
  json changed;
  WriteChanged("llama4", temp.path(), [&](json& config) {
    config["text_config"]["attention_chunk_size"] = config["text_config"]["floor_scale"] = 8192;
    changed = config["text_config"];
  });
  const std::string path = temp.path() + "/m.gguf";
  WriteConverted({.family = "llama4",
                  .architecture = "llama4",
                  .keys = {{"expert_count", "num_local_experts"},
                           {"feed_forward_length", "intermediate_size_mlp"},
                           {"expert_feed_forward_length", "intermediate_size"},
                           {"interleave_moe_layer_step", "interleave_moe_layer_step"},
                           {"attention.key_length", "head_dim"},
                           {"attention.value_length", "head_dim"},
                           {"rope.dimension_count", "head_dim"}},
                  .values = {{"feed_forward_length", changed["intermediate_size_mlp"]}},
                  .rope_factors = {{"rope_freqs.weight", Llama3Factors(changed, 16)}}},
                 path);
  const std::vector<int32_t> ids = Golden<int32_t>("llama4", "short.input_ids");
  EXPECT_LE(WorstShare(LogitsOfAll(path, ids), Golden<float>("llama4", "short.logits")), 1);
  EXPECT_LE(WorstShare(Logits("llama4", "long", path), Logits("llama4", "long", temp.path())), 1);
}

// Lists of factors for short and long sequences, and one factor for the table instead of the two of the published
// config, which files do not say, as they do not say the router's noise.
TEST(GgufGolden, PhiComputesTheSame) {
  testing::TempDir temp;
  json changed;
  WriteChanged("phimoe_longrope", temp.path(), [&](json& config) {
    config["router_jitter_noise"] = 0.01;
    json& scaling = config["rope_scaling"];
    scaling.erase("short_mscale");
    scaling.erase("long_mscale");
    scaling["attention_factor"] = 1.1875;
    changed = config;
  });
  const json& scaling = changed["rope_scaling"];
  const std::string path = temp.path() + "/m.gguf";
  WriteConverted({.family = "phimoe_longrope",
                  .architecture = "phimoe",
                  .keys = {{"expert_count", "num_local_experts"}, {"attention.sliding_window", "sliding_window"}},
                  .values = {{"rope.dimension_count", 16},
                             {"rope.scaling.original_context_length", 32},
                             {"rope.scaling.attn_factor", 1.1875}},
                  .rope_factors = {{"rope_factors_short.weight", scaling["short_factor"].get<std::vector<float>>()},
                                   {"rope_factors_long.weight", scaling["long_factor"].get<std::vector<float>>()}}},
                 path);
  for (const std::string prompt : {"short", "long"}) {
    const std::vector<float> want = Logits("phimoe_longrope", prompt, temp.path());
    EXPECT_LE(WorstShare(Logits("phimoe_longrope", prompt, path), want), 1) << prompt;
  }
}

}  // namespace
}  // namespace tokenferry

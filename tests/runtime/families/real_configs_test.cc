// The published models' own configurations (tests/data/configs): what they have and what a token meets.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>

#include "runtime/families/families.h"
#include "runtime/model/model_summary.h"
#include "tests/support/checkpoint_writer.h"
#include "tests/support/status_matchers.h"

namespace tokenferry::testing {
namespace {

using nlohmann::json;

// Published parameters in 1e9, embeddings included, multi-token-prediction modules not. The file of Phi-3.5-MoE has as
// many factors of LongRoPE as the published one, but not its values.
struct Published {
  const char* file;
  double total, active;
};
constexpr Published kPublished[] = {
    {"deepseek-v2", 235.741, 21.376},       {"deepseek-v2-lite", 15.706, 2.661},
    {"deepseek-v3", 671.026, 37.552},       {"glm-4.5", 352.798, 33.632},
    {"deepseek-v3.2", 671.878, 38.404},     {"glm-5", 743.9, 41.8},
    {"glm-4.5-air", 106.852, 13.424},       {"glm-4.7-flash", 29.943, 3.897},
    {"granite-3.0-1b-a400m", 1.335, 0.429}, {"granite-3.0-3b-a800m", 3.299, 0.883},
    {"gpt-oss-20b", 20.915, 4.187},         {"gpt-oss-120b", 116.829, 5.712},
    {"kimi-k2", 1026.408, 32.862},          {"kimi-k2-thinking", 1026.408, 32.862},
    {"llama-4-maverick", 400.712, 17.185},  {"llama-4-scout", 107.770, 17.173},
    {"minimax-m2", 228.690, 11.031},        {"mixtral-8x22b", 140.621, 39.152},
    {"mixtral-8x7b", 46.703, 12.880},       {"olmoe-1b-7b", 6.919, 1.282},
    {"phi-3.5-moe", 41.873, 6.640},         {"qwen1.5-moe-a2.7b", 14.316, 2.689},
    {"qwen2-57b-a14b", 57.409, 14.249},     {"qwen3-235b-a22b", 235.094, 22.191},
    {"qwen3-30b-a3b", 30.532, 3.353},       {"qwen3-next-80b-a3b", 79.674, 3.875},
    {"qwen3.5-35b-a3b", 34.661, 3.455},     {"qwen3.5-122b-a10b", 122.112, 9.771},
    {"qwen3.5-397b-a17b", 396.346, 17.349}, {"switch-base-8", 0.619, 0.223},
};

std::string ConfigDir() { return std::string(std::getenv("TF_SOURCE_DIR")) + "/tests/data/configs/"; }

// The file's config with other values: a merge patch (RFC 7386), so null removes a key.
absl::StatusOr<ModelSpec> Patched(const std::string& name, const json& patch) {
  json config = json::parse(ReadFile(ConfigDir() + name + ".json"));
  config.merge_patch(patch);
  return ParseModelSpec(config.dump(), name);
}

class RealConfigs : public ::testing::TestWithParam<Published> {};

TEST_P(RealConfigs, HaveThePublishedParameters) {
  const std::string file = std::string(GetParam().file) + ".json";
  const auto model = ParseModelSpec(ReadFile(ConfigDir() + file), file);
  ASSERT_OK(model);
  const auto plan = PlanTensors(*model);
  ASSERT_OK(plan);
  const PartSummary sum = SummarizeModel(*plan).Total();
  EXPECT_NEAR(static_cast<double>(sum.num_params) / 1e9, GetParam().total, 0.001 * GetParam().total);
  EXPECT_NEAR(static_cast<double>(sum.num_active_params) / 1e9, GetParam().active, 0.001 * GetParam().active);
}

INSTANTIATE_TEST_SUITE_P(All, RealConfigs, ::testing::ValuesIn(kPublished), [](const auto& info) {
  std::string name = info.param.file;
  for (char& c : name) c = std::isalnum(static_cast<unsigned char>(c)) ? c : '_';
  return name;
});

// Memory against files, of whole models: norms and routers are widened to F32, zero points of four bits to bytes.
TEST(RealConfigs, MemoryHoldsLittleMoreThanTheFiles) {
  const auto check = [](const std::string& name, const json& config) {
    const auto model = ParseModelSpec(config.dump(), name);
    ASSERT_OK(model);
    const auto plan = PlanTensors(*model);
    ASSERT_OK(plan);
    int64_t stored = 0, held = 0;
    for (const TensorSpec& spec : plan->tensors) {
      stored += spec.stored_bytes();
      held += spec.memory_bytes().total();
    }
    EXPECT_LE(static_cast<double>(held), 1.03 * static_cast<double>(stored)) << name;
  };
  for (const Published& published : kPublished) {
    const std::string file = std::string(published.file) + ".json";
    check(file, json::parse(ReadFile(ConfigDir() + file)));
  }
  for (const char* method : {"gptq", "awq"}) {
    json config = json::parse(ReadFile(ConfigDir() + "qwen3-30b-a3b.json"));
    config["quantization_config"] = {{"quant_method", method}, {"bits", 4}, {"group_size", 128}};
    check(method, config);
  }
}

// Bits that an element of a routed expert's matrix takes, its share of a scale included.
TEST(RealConfigs, QuantisedExpertsTakeTheBitsOfTheirFormat) {
  for (const auto& [name, bits] : {std::pair{"gpt-oss-120b", 4 + 8.0 / 32},
                                   {"kimi-k2-thinking", 4 + 16.0 / 32},
                                   {"deepseek-v3", 8 + 32.0 / (128 * 128)},
                                   {"qwen3-30b-a3b", 16.0}}) {
    const std::string file = std::string(name) + ".json";
    const auto model = ParseModelSpec(ReadFile(ConfigDir() + file), file);
    ASSERT_OK(model);
    int64_t elements = 0, stored = 0, held = 0;
    const auto plan = PlanTensors(*model);
    ASSERT_OK(plan);
    for (const TensorSpec& spec : plan->tensors) {
      if (spec.expert < 0 || spec.shape.size() != 2) continue;
      elements += spec.num_elements();
      stored += spec.stored_bytes();
      held += spec.memory_bytes().total();
    }
    EXPECT_DOUBLE_EQ(8 * static_cast<double>(stored) / static_cast<double>(elements), bits) << name;
    EXPECT_EQ(stored, held) << name;
  }
}

// Published lists name parts of modules: "gate" is the router's, and neither a gate_proj nor a part of an expert.
TEST(RealConfigs, BareNamesKeepRoutersAndHeadsAsTheyAre) {
  const auto model = ParseModelSpec(ReadFile(ConfigDir() + "minimax-m2.json"), "minimax-m2.json");
  ASSERT_OK(model);
  const auto plan = PlanTensors(*model);
  ASSERT_OK(plan);
  for (const TensorSpec& spec : plan->tensors) {
    if (spec.layer > 0) continue;
    const ModelPart part = spec.part();
    const bool is_f8 = part == ModelPart::kAttention || part == ModelPart::kRoutedExpert;
    EXPECT_EQ(spec.dtype() == DType::kF8E4M3, is_f8) << spec.name();
  }
}

// What the files say is what the families' classes have where files are silent.
TEST(RealConfigs, RotationsWithoutTheirKeysAreThoseOfTheClass) {
  const auto same = [](const std::string& name, const json& without) {
    const auto said = Patched(name, json::object()), silent = Patched(name, without);
    ASSERT_OK(said);
    ASSERT_OK(silent);
    EXPECT_TRUE(silent->rope == said->rope) << name;
  };
  same("glm-4.5", {{"partial_rotary_factor", nullptr}});
  same("qwen3-next-80b-a3b", {{"partial_rotary_factor", nullptr}});
  same("qwen3.5-35b-a3b", {{"text_config", {{"rope_parameters", {{"partial_rotary_factor", nullptr}}}}}});
  same("gpt-oss-20b", {{"rope_scaling", nullptr}});
  EXPECT_EQ(Patched("glm-4.5", {{"partial_rotary_factor", nullptr}})->rope.dim, 64);
  const json typeless = {{"rope_scaling", nullptr}, {"rope_parameters", {{"rope_theta", 150000}}}};
  EXPECT_EQ(Patched("gpt-oss-20b", typeless)->rope.scaling, RopeScaling::kNone);
}

TEST(RealConfigs, RotationsSaidTwiceAgree) {
  const json with_part = {{"partial_rotary_factor", 1.0}};
  for (const json& patch : {with_part, json::object({{"rope_parameters", with_part}})}) {
    EXPECT_ERROR(Patched("minimax-m2", patch), kInvalid, "'rotary_dim' is 64, but partial_rotary_factor makes it 128");
  }
  const auto layout = [](const char* name, const json& patch) {
    return Patched(name, patch)->layers[0].attention.indexer.rope_layout;
  };
  EXPECT_EQ(layout("glm-5", {{"indexer_rope_interleave", true}}), RopeLayout::kInterleaved);
  EXPECT_EQ(layout("glm-5", {{"indexer_rope_interleave", false}}), RopeLayout::kHalfSplit);
  EXPECT_EQ(layout("deepseek-v3.2", {{"indexer_rope_interleave", false}}), RopeLayout::kHalfSplit);
  EXPECT_EQ(layout("deepseek-v3.2", json::object()), RopeLayout::kHalfSplit);
}

// What decides which of Llama 4's layers have chunks, a rotation and experts.
TEST(RealConfigs, Llama4ByItsLists) {
  const auto with = [](const std::function<void(json&)>& edit) {
    json config = json::parse(ReadFile(ConfigDir() + "llama-4-scout.json"));
    config["text_config"]["num_hidden_layers"] = 4;
    edit(config["text_config"]);
    return ParseModelSpec(config.dump(), "scout");
  };
  const auto chunks = [](const ModelSpec& model) {
    std::string kinds;
    for (const LayerSpec& layer : model.layers) {
      kinds += layer.attention.keys.kind == KeyRange::Kind::kChunk ? 'C' : '-';
      kinds += layer.attention.rotation == Rotation::kNone ? '-' : 'R';
    }
    return kinds;
  };
  const auto plain = with([](json&) {});
  ASSERT_OK(plain);
  EXPECT_EQ(chunks(*plain), "CRCRCR--");
  const auto typed = with([](json& text) {
    text["layer_types"] = {"full_attention", "chunked_attention", "full_attention", "chunked_attention"};
    text["no_rope_layers"] = {1, 1, 0, 0, 1};  // one more than there are layers
  });
  ASSERT_OK(typed);
  EXPECT_EQ(chunks(*typed), "-RCR--C-");
  EXPECT_EQ(typed->layers[0].attention.qk_norm, QkNorm::kUnit);
  EXPECT_EQ(typed->layers[3].attention.temperature.scale, 0.1f);
  EXPECT_ERROR(with([](json& text) { text["layer_types"] = {"full_attention"}; }), kInvalid,
               "'text_config.layer_types'");
  const auto no_chunks = [](json& text) { text["attention_chunk_size"] = nullptr; };
  EXPECT_ERROR(with(no_chunks), kInvalid, "'text_config.attention_chunk_size' is null, but layers have chunked");
  ASSERT_OK(with([&](json& text) {
    no_chunks(text);
    text["layer_types"] = std::vector<std::string>(4, "full_attention");
  }));
  EXPECT_TRUE(*with([](json& text) { text["attn_temperature_tuning"] = 4; }) == *plain);  // as Scout is published
  EXPECT_EQ(with([](json& text) { text["attn_temperature_tuning"] = 0; })->layers[3].attention.temperature.scale, 0);
  EXPECT_ERROR(with([](json& text) { text["attn_temperature_tuning"] = "4"; }), kInvalid, "instead of true or false");
  EXPECT_EQ(plain->num_moe_layers(), 4);
  EXPECT_EQ(with([](json& text) { text["moe_layers"] = json::array(); })->num_moe_layers(), 0);
}

// A model for images says of its text model here or there, and in both places the same.
TEST(RealConfigs, WhatWrappersSayOfTheirTextModel) {
  for (const char* name : {"llama-4-scout", "qwen3.5-35b-a3b"}) {
    SCOPED_TRACE(name);
    const json said = {{"tie_word_embeddings", true},
                       {"dtype", "float32"},
                       {"torch_dtype", nullptr},
                       {"eos_token_id", {5, 7}},
                       {"bos_token_id", 9}};
    json unsaid = said;
    for (auto& member : unsaid) member = nullptr;
    const auto with = [&](json root, const json& text) {
      root["text_config"] = text;
      return Patched(name, root);
    };
    const auto nested = with(unsaid, said), at_root = with(said, unsaid);
    ASSERT_OK(nested);
    ASSERT_OK(at_root);
    EXPECT_TRUE(nested->tie_word_embeddings);
    EXPECT_EQ(nested->dtype, DType::kF32);
    EXPECT_EQ(nested->bos_token_id, 9);
    EXPECT_EQ(nested->eos_token_ids, (std::vector<int32_t>{5, 7}));
    EXPECT_TRUE(*at_root == *nested);
    const auto twice = [&](const char* key, const json& root, const json& text) {
      return Patched(name, {{key, root}, {"text_config", {{key, text}}}});
    };
    EXPECT_ERROR(twice("tie_word_embeddings", true, false), kInvalid,
                 "'text_config.tie_word_embeddings' is false, but 'tie_word_embeddings' is true");
    const auto tokens = twice("eos_token_id", 3, 4);
    ASSERT_OK(tokens);
    EXPECT_EQ(tokens->eos_token_ids, std::vector<int32_t>{4});
    EXPECT_ERROR(
        with({{"dtype", nullptr}, {"torch_dtype", "float32"}}, {{"dtype", "bfloat16"}, {"torch_dtype", nullptr}}),
        kInvalid, "'torch_dtype' is \"float32\", but 'text_config.dtype' is \"bfloat16\"");
    const json fp8 = {{"quant_method", "fp8"}, {"weight_block_size", {128, 128}}};
    const auto quantised = Patched(name, {{"text_config", {{"compression_config", fp8}}}});
    ASSERT_OK(quantised);
    EXPECT_EQ(quantised->quant.block_cols, 128);
  }
}

// Which layers have a window where no list says it is not one rule for Qwen2 and Qwen3.
TEST(RealConfigs, QwensWindows) {
  const auto windows = [](const char* name, json changes) {
    changes.update({{"sliding_window", 8}, {"num_hidden_layers", 5}});
    const auto model = Patched(name, changes);
    EXPECT_TRUE(model.ok()) << model.status();
    std::string slides;
    for (int64_t i = 0; model.ok() && i < model->num_layers(); ++i) {
      slides += model->layers[i].attention.keys == KeyRange{KeyRange::Kind::kSliding, 8} ? 'S' : '-';
    }
    return slides;
  };
  const json used = {{"use_sliding_window", true}, {"max_window_layers", 3}};
  EXPECT_EQ(windows("qwen2-57b-a14b", used), "S-S--");
  EXPECT_EQ(windows("qwen2-57b-a14b", {{"use_sliding_window", true}, {"max_window_layers", nullptr}}), "S-S-S");
  EXPECT_EQ(windows("qwen3-30b-a3b", used), "SSSSS");
  EXPECT_EQ(windows("qwen3-30b-a3b", {{"use_sliding_window", false}}), "-----");
  const json listed = {{"num_hidden_layers", 2}, {"layer_types", {"full_attention", "sliding_attention"}}};
  EXPECT_ERROR(Patched("qwen3-30b-a3b", listed), kInvalid,
               "'layer_types' makes layer 1 sliding_attention, but 'use_sliding_window' is false");
}

TEST(RealConfigs, DenseLayersAsListedOrCounted) {
  for (const auto& [name, num_dense] : {std::pair{"glm-4.7-flash", 1}, {"glm-5", 3}, {"deepseek-v3.2", 3}}) {
    const auto counted = Patched(name, json::object());
    ASSERT_OK(counted);
    json types = std::vector<std::string>(counted->layers.size(), "sparse");
    for (int i = 0; i < num_dense; ++i) types[i] = "dense";
    const auto listed = Patched(name, {{"mlp_layer_types", types}, {"first_k_dense_replace", nullptr}});
    ASSERT_OK(listed);
    EXPECT_TRUE(*listed == *counted) << name;
    EXPECT_TRUE(*Patched(name, {{"mlp_layer_types", types}}) == *counted) << name;
    types[5] = "dense";
    EXPECT_FALSE(Patched(name, {{"mlp_layer_types", types}, {"first_k_dense_replace", nullptr}})->layers[5].is_moe);
    EXPECT_ERROR(Patched(name, {{"mlp_layer_types", types}}), kInvalid,
                 "'mlp_layer_types' makes layer 5 dense, but 'first_k_dense_replace' is ", "and 'moe_layer_freq' 1");
    types[5] = "moe";
    EXPECT_ERROR(Patched(name, {{"mlp_layer_types", types}}), kUnimplemented, "names the network 'moe'");
    EXPECT_ERROR(Patched(name, {{"mlp_layer_types", {"dense"}}}), kInvalid, "'mlp_layer_types' has 1 entries for ");
  }
}

TEST(RealConfigs, QuantisedExpertsOfLlama4AreSingle) {
  const json fp8 = {
      {"quant_method", "compressed-tensors"},
      {"format", "float-quantized"},
      {"config_groups", {{"group_0", {{"weights", {{"num_bits", 8}, {"type", "float"}, {"strategy", "channel"}}}}}}}};
  const auto model =
      Patched("llama-4-scout", {{"quantization_config", fp8}, {"text_config", {{"num_hidden_layers", 2}}}});
  ASSERT_OK(model);
  const auto plan = PlanTensors(*model);
  ASSERT_OK(plan);
  const auto& tensors = plan->tensors;
  const auto expert = std::find_if(tensors.begin(), tensors.end(), [](const TensorSpec& t) { return t.expert == 7; });
  ASSERT_NE(expert, tensors.end());
  const std::string name = "language_model.model.layers.0.feed_forward.experts.7.gate_proj.weight";
  EXPECT_EQ(expert->name(), name);
  EXPECT_EQ(expert->stored[1].name, name + "_scale");
}

TEST(RealConfigs, AllFilesAreListed) {
  const std::filesystem::directory_iterator files(ConfigDir());
  EXPECT_EQ(std::distance(begin(files), end(files)), static_cast<std::ptrdiff_t>(std::size(kPublished)));
}

}  // namespace
}  // namespace tokenferry::testing

// What single families read from their keys, and what they refuse. DeepSeek-V3 has a file of its own (model_spec_test).
#include "runtime/families/families.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <nlohmann/json.hpp>

#include "runtime/model/stored_tensor.h"
#include "tests/support/checkpoint_writer.h"
#include "tests/support/status_matchers.h"

namespace tokenferry::testing {
namespace {

using nlohmann::json;

json Golden(const std::string& folder) {
  return json::parse(
      ReadFile(std::string(std::getenv("TF_SOURCE_DIR")) + "/tests/data/families/" + folder + "/config.json"));
}

// The folder's config with some keys set to other values; null removes a key.
absl::StatusOr<ModelSpec> With(const std::string& folder, const json& changes) {
  json config = Golden(folder);
  for (const auto& [key, value] : changes.items()) {
    if (value.is_null()) {
      config.erase(key);
    } else {
      config[key] = value;
    }
  }
  return ParseModelSpec(config.dump(), "c.json");
}

TEST(Mixtral, Reads) {
  const auto model = With("mixtral", json::object());
  ASSERT_OK(model);
  const AttentionSpec& attention = model->layers[2].attention;
  EXPECT_EQ(attention.kind, AttentionKind::kGrouped);
  EXPECT_EQ(attention.num_heads, 4);
  EXPECT_EQ(attention.num_kv_heads, 2);
  EXPECT_EQ(attention.head_dim, 16);
  EXPECT_EQ(attention.scale, 0.25f);
  EXPECT_EQ(attention.rope_layout, RopeLayout::kHalfSplit);
  EXPECT_EQ(attention.cache_row(), 2 * 2 * 16);
  EXPECT_EQ(attention.keys.kind, KeyRange::Kind::kAll);
  EXPECT_EQ(model->rope.dim, 16);
  EXPECT_EQ(model->num_moe_layers(), 3);
  EXPECT_EQ(model->moe.router.renormalise, Renormalise::kYes);
  EXPECT_EQ(model->moe.router.num_groups, 1);
  EXPECT_FALSE(model->moe.has_choice_bias);
  const KeyRange keys = With("mixtral", {{"sliding_window", 4096}})->layers[1].attention.keys;
  EXPECT_EQ(keys.kind, KeyRange::Kind::kSliding);
  EXPECT_EQ(keys.size, 4096);
  EXPECT_EQ(With("mixtral", {{"head_dim", 24}})->layers[0].attention.query_size(), 96);
  EXPECT_EQ(With("mixtral", {{"num_key_value_heads", nullptr}})->layers[0].attention.num_kv_heads, 4);
  EXPECT_TRUE(*With("mixtral", {{"num_experts_per_tok", nullptr}, {"experts_per_token", 2}}) == *model);
  EXPECT_ERROR(With("mixtral", {{"experts_per_token", 3}}), kInvalid, "'experts_per_token' is 3, but 'num_experts_per");
}

TEST(Mixtral, Refuses) {
  EXPECT_ERROR(With("mixtral", {{"num_key_value_heads", 3}}), kInvalid,
               "'num_key_value_heads' is 3, which does not divide num_attention_heads 4");
  EXPECT_ERROR(With("mixtral", {{"num_attention_heads", 6}}), kInvalid,
               "'num_attention_heads' is 6, which does not divide hidden_size 64");
  EXPECT_ERROR(With("mixtral", {{"num_experts_per_tok", 9}}), kInvalid,
               "'num_experts_per_tok' is 9, more than the 8 experts");
  EXPECT_ERROR(With("mixtral", {{"hidden_act", "gelu"}}), kUnimplemented, "'hidden_act'", "'gelu'", "known: silu");
  EXPECT_ERROR(With("mixtral", {{"architectures", {"LlamaForCausalLM"}}}), kUnimplemented, "'LlamaForCausalLM'",
               "known: MixtralForCausalLM");
  EXPECT_ERROR(With("mixtral", {{"partial_rotary_factor", 0.5}}), kUnimplemented, "'partial_rotary_factor' is 0.5");
  EXPECT_ERROR(With("mixtral", {{"rope_scaling", {{"type", "ntk"}, {"factor", 2}}}}), kUnimplemented, "'ntk'");
  EXPECT_ERROR(With("mixtral", {{"num_local_experts", nullptr}}), kInvalid, "'num_local_experts' is missing");
}

TEST(Qwen, LayersAreDenseOrHaveWindowsAsTheKeysSay) {
  const auto sparse =
      With("qwen3_moe", {{"num_hidden_layers", 6}, {"decoder_sparse_step", 2}, {"mlp_only_layers", {3}}});
  ASSERT_OK(sparse);
  std::string moe;
  for (const LayerSpec& layer : sparse->layers) moe += layer.is_moe ? 'M' : '-';
  EXPECT_EQ(moe, "-M---M");
  EXPECT_EQ(sparse->layers[0].dense_intermediate, 160);
  json listed = {{"sliding_window", 8}, {"layer_types", {"sliding_attention", "full_attention", "full_attention"}}};
  EXPECT_EQ(With("qwen2_moe", listed)->layers[0].attention.keys.size, 8);
  EXPECT_EQ(With("qwen2_moe", listed)->layers[1].attention.keys.kind, KeyRange::Kind::kAll);
  listed["layer_types"] = {"full_attention"};
  EXPECT_ERROR(With("qwen2_moe", listed), kInvalid, "'layer_types' has 1 entries for 3 layers");
  listed["layer_types"] = {"full_attention", "linear_attention", "full_attention"};
  EXPECT_ERROR(With("qwen2_moe", listed), kUnimplemented, "'layer_types' names the attention 'linear_attention'");
  EXPECT_FALSE(With("qwen2_moe", {{"qkv_bias", false}})->layers[0].attention.has_qkv_bias);
  EXPECT_TRUE(With("qwen3_moe", {{"attention_bias", true}})->layers[0].attention.has_o_bias);
}

TEST(QwenHybrid, LayersAreOfTwoKinds) {
  const auto model = With("qwen3_next", {{"num_hidden_layers", 5}, {"mlp_only_layers", {1}}});
  ASSERT_OK(model);
  for (int i = 0; i < 5; ++i) {
    const AttentionSpec& a = model->layers[i].attention;
    EXPECT_EQ(a.kind, i == 3 ? AttentionKind::kGrouped : AttentionKind::kGatedDelta) << i;
    EXPECT_EQ(model->layers[i].is_moe, i != 1) << i;
  }
  const AttentionSpec &full = model->layers[3].attention, &delta = model->layers[0].attention;
  EXPECT_TRUE(full.has_output_gate);
  EXPECT_EQ(full.query_rows(), 2 * 4 * 32);
  EXPECT_EQ(full.state_size(), 0);
  EXPECT_EQ(delta.delta, (DeltaShape{2, 4, 16, 16, 4}));
  EXPECT_EQ(delta.cache_row(), 0);
  EXPECT_EQ(delta.state_size(), 3 * 128 + 4 * 16 * 16);
  EXPECT_EQ(model->rope.dim, 8);
  EXPECT_TRUE(model->has_norms_minus_one);
  EXPECT_EQ(model->moe.router.renormalise, Renormalise::kYes);
  EXPECT_EQ(With("qwen3_next", {{"norm_topk_prob", false}})->moe.router.renormalise, Renormalise::kNo);
  const auto listed =
      With("qwen3_next", {{"layer_types", {"full_attention", "linear_attention", "full_attention", "full_attention"}}});
  ASSERT_OK(listed);
  EXPECT_EQ(listed->layers[0].attention.kind, AttentionKind::kGrouped);
  EXPECT_EQ(listed->layers[1].attention.kind, AttentionKind::kGatedDelta);
}

TEST(QwenHybrid, Refuses) {
  EXPECT_ERROR(With("qwen3_next", {{"attention_bias", true}}), kUnimplemented, "'attention_bias' is true");
  EXPECT_ERROR(With("qwen3_next", {{"linear_num_value_heads", 5}}), kInvalid,
               "'linear_num_value_heads' is 5, which linear_num_key_heads 2 does not divide");
  EXPECT_ERROR(With("qwen3_next", {{"linear_conv_kernel_dim", 0}}), kInvalid, "'linear_conv_kernel_dim'");
  EXPECT_ERROR(With("qwen3_next", {{"linear_key_head_dim", nullptr}}), kInvalid, "'linear_key_head_dim' is missing");
  EXPECT_ERROR(With("qwen3_next", {{"layer_types", {"full_attention"}}}), kInvalid,
               "'layer_types' has 1 entries for 4 layers");
  EXPECT_ERROR(With("qwen3_next", {{"layer_types", {"full_attention", "mamba", "full_attention", "mamba"}}}),
               kUnimplemented, "'layer_types'", "'mamba'", "known: full_attention, linear_attention");
}

TEST(QwenHybrid, TheTextModelIsWithinAnother) {
  const auto model = With("qwen3_5_moe", json::object());
  ASSERT_OK(model);
  EXPECT_EQ(PlainName(*model, Role::kLmHead, -1, -1), "lm_head.weight");
  EXPECT_EQ(PlainName(*model, Role::kFinalNorm, -1, -1), "model.language_model.norm.weight");
  EXPECT_EQ(PlainName(*model, Role::kDeltaOut, 2, -1), "model.language_model.layers.2.linear_attn.out_proj.weight");
  EXPECT_EQ(PlainName(*model, Role::kExpertUp, 0, 7), "model.language_model.layers.0.mlp.experts.gate_up_proj");
  EXPECT_FALSE(With("qwen3_5_moe", {{"text_config", nullptr}}).ok());
  // The text model alone has a config of its own. Quantised files have the experts one by one.
  json text = Golden("qwen3_5_moe")["text_config"];
  text["architectures"] = {"Qwen3_5MoeForCausalLM"};
  const auto by_itself = ParseModelSpec(text.dump(), "c.json");
  ASSERT_OK(by_itself);
  EXPECT_EQ(PlainName(*by_itself, Role::kFinalNorm, -1, -1), "model.norm.weight");
  text["quantization_config"] = {{"quant_method", "fp8"}, {"weight_block_size", {128, 128}}};
  const auto quantised = ParseModelSpec(text.dump(), "c.json");
  ASSERT_OK(quantised);
  EXPECT_EQ(PlainName(*quantised, Role::kExpertUp, 0, 7), "model.layers.0.mlp.experts.7.up_proj.weight");
}

TEST(DeepSeekV2, ScalesWhatItDoesNotNormalise) {
  const auto plain = With("deepseek_v2", json::object());
  ASSERT_OK(plain);
  EXPECT_EQ(plain->moe.router.scaling, 16.0f);
  EXPECT_EQ(plain->moe.router.group_score, GroupScore::kMax);
  EXPECT_GT(plain->moe.router.num_groups, 1);
  const auto normalised = With("deepseek_v2", {{"norm_topk_prob", true}});
  EXPECT_EQ(normalised->moe.router.renormalise, Renormalise::kYes);
  EXPECT_EQ(normalised->moe.router.scaling, 1.0f);
  EXPECT_EQ(With("deepseek_v2", {{"topk_method", "greedy"}})->moe.router.num_groups, 1);
  EXPECT_ERROR(With("deepseek_v2", {{"topk_method", "noaux_tc"}}), kUnimplemented, "'noaux_tc'",
               "known: greedy, group_limited_greedy");
}

TEST(DeepSeekV32, HasAnIndexer) {
  const auto model = With("deepseek_v32", json::object());
  ASSERT_OK(model);
  const AttentionSpec& a = model->layers[2].attention;
  EXPECT_EQ(a.kind, AttentionKind::kLatent);
  EXPECT_EQ(a.indexer, (IndexerSpec{IndexerSpec::Kind::kOwn, 16, 16, 12, RopeLayout::kHalfSplit}));
  EXPECT_EQ(a.rope_layout, RopeLayout::kInterleaved);
  EXPECT_EQ(model->num_selected_keys(), 12);
  EXPECT_ERROR(With("deepseek_v32", {{"index_topk", 0}}), kInvalid, "'index_topk'");
  EXPECT_ERROR(With("deepseek_v32", {{"index_n_heads", nullptr}}), kInvalid, "'index_n_heads' is missing");
  EXPECT_ERROR(With("deepseek_v32", {{"index_head_dim", 4}}), kInvalid,
               "'index_head_dim' is 4, less than the qk_rope_head_dim 8");
  EXPECT_ERROR(With("deepseek_v32", {{"q_lora_rank", nullptr}}), kInvalid, "'q_lora_rank' is missing");
}

TEST(Glm5, LayersShareWhatIndexersSelect) {
  const auto with = [](json changes) {
    changes["model_type"] = "glm_moe_dsa";
    changes["architectures"] = {"GlmMoeDsaForCausalLM"};
    return With("deepseek_v32", changes);
  };
  const auto kinds = [&](const json& changes) {
    std::string kinds;
    const auto model = with(changes);
    EXPECT_TRUE(model.ok()) << model.status();
    if (!model.ok()) return kinds;
    for (const LayerSpec& layer : model->layers) {
      kinds += layer.attention.indexer.kind == IndexerSpec::Kind::kOwn ? 'F' : 'S';
    }
    return kinds;
  };
  EXPECT_EQ(kinds(json::object()), "FFF");
  EXPECT_EQ(with(json::object())->layers[0].attention.indexer.rope_layout, RopeLayout::kInterleaved);
  EXPECT_EQ(kinds({{"indexer_types", {"full", "shared", "full"}}}), "FSF");
  EXPECT_EQ(kinds({{"index_topk_pattern", "FSS"}}), "FSS");
  EXPECT_EQ(kinds({{"num_hidden_layers", 8}, {"index_topk_freq", 3}}), "FFSSFSSF");
  EXPECT_ERROR(with({{"indexer_types", {"full", "half", "full"}}}), kUnimplemented, "'indexer_types'", "'half'");
  EXPECT_ERROR(with({{"indexer_types", {"full"}}}), kInvalid, "'indexer_types' has 1 entries for 3 layers");
  EXPECT_ERROR(with({{"index_topk_pattern", "FXS"}}), kInvalid, "'index_topk_pattern' is 'FXS'");
  EXPECT_ERROR(with({{"index_topk_freq", 2}, {"index_skip_topk_offset", 0}}), kInvalid,
               "'index_topk_freq' makes the first layer share");
  EXPECT_ERROR(with({{"index_topk_pattern", "SFF"}}), kInvalid, "'index_topk_pattern' makes the first layer share");
}

TEST(MiniMax, RotaryDimensions) {
  EXPECT_EQ(With("minimax_m2", json::object())->rope.dim, 16);
  EXPECT_EQ(With("minimax_m2", {{"rotary_dim", nullptr}})->rope.dim, 32);
  EXPECT_EQ(With("minimax_m2", {{"rotary_dim", nullptr}, {"partial_rotary_factor", 0.25}})->rope.dim, 8);
  EXPECT_ERROR(With("minimax_m2", {{"partial_rotary_factor", 0.25}}), kInvalid,
               "'rotary_dim' is 16, but partial_rotary_factor makes it 8");
  EXPECT_ERROR(With("minimax_m2", {{"rotary_dim", 40}}), kInvalid, "'rotary_dim' is 40, which is no even part");
  EXPECT_ERROR(With("minimax_m2", {{"attn_type_list", {1, 0, 1}}}), kUnimplemented, "'attn_type_list' has a 0");
  EXPECT_ERROR(With("minimax_m2", {{"shared_intermediate_size", 8}}), kUnimplemented, "'shared_intermediate_size'");
}

TEST(Glm, HalfOfEachHeadTurns) {
  const auto model = With("glm4_moe", json::object());
  ASSERT_OK(model);
  EXPECT_EQ(model->rope.dim, 8);
  EXPECT_EQ(model->layers[0].attention.head_dim, 16);
  EXPECT_EQ(model->layers[0].attention.qk_norm, QkNorm::kHead);
  EXPECT_FALSE(model->layers[0].attention.has_o_bias);
  EXPECT_EQ(With("glm4_moe", {{"use_qk_norm", false}})->layers[0].attention.qk_norm, QkNorm::kNone);
}

TEST(PhiMoe, NormsBiasesAndRouter) {
  const auto model = With("phimoe", json::object());
  ASSERT_OK(model);
  EXPECT_EQ(model->norm, NormKind::kLayer);
  EXPECT_TRUE(model->has_head_bias);
  EXPECT_TRUE(model->layers[0].attention.has_qkv_bias && model->layers[0].attention.has_o_bias);
  EXPECT_EQ(model->moe.router.scoring, Scoring::kSparseMixer);
  EXPECT_EQ(model->moe.router.mixer_eps, 0.15f);
  EXPECT_EQ(With("phimoe", {{"router_jitter_noise", nullptr}})->moe.router.mixer_eps, 0.01f);
  EXPECT_EQ(model->layers[2].attention.keys, (KeyRange{KeyRange::Kind::kSliding, 131072}));
  EXPECT_EQ(With("phimoe", {{"sliding_window", nullptr}})->layers[2].attention.keys, KeyRange());
  const auto without = With("phimoe", {{"attention_bias", nullptr}, {"lm_head_bias", false}});
  ASSERT_OK(without);
  EXPECT_FALSE(without->has_head_bias || without->layers[0].attention.has_qkv_bias ||
               without->layers[0].attention.has_o_bias);
  EXPECT_ERROR(With("phimoe", {{"num_experts_per_tok", 1}}), kUnimplemented, "'num_experts_per_tok' is not 2");
  EXPECT_ERROR(With("phimoe", {{"router_jitter_noise", -1}}), kInvalid, "'router_jitter_noise' is -1");
}

TEST(PhiMoe, TwoListsOfFactors) {
  const auto model = With("phimoe", json::object());
  ASSERT_OK(model);
  EXPECT_EQ(model->rope.scaling, RopeScaling::kLongRope);
  EXPECT_EQ(model->rope.short_factors.size(), 8u);
  EXPECT_EQ(model->rope.long_factors[7], 133.35);
  EXPECT_EQ(model->rope.long_mscale, 1.243163121016122);
  EXPECT_EQ(model->rope.original_max_position, 4096);
  EXPECT_EQ(model->rope.factor, 32);
  const json scaling = Golden("phimoe")["rope_scaling"];
  const auto with = [&](const char* key, const json& value) {
    json changed = scaling;
    changed[key] = value;
    return With("phimoe", {{"rope_scaling", changed}});
  };
  EXPECT_ERROR(with("short_factor", nullptr), kInvalid, "'rope_scaling.short_factor' is missing");
  EXPECT_ERROR(with("long_factor", {1.0, 2.0}), kInvalid, "long_factor has 2 factors, must have 8");
  EXPECT_ERROR(with("long_factor", 3), kInvalid, "'rope_scaling.long_factor' is 3 instead of a list");
  EXPECT_ERROR(with("long_factor", {1, 1, 1, 1, 0, 1, 1, 1}), kInvalid,
               "'rope_scaling.long_factor[4]' is 0, not within");
  EXPECT_ERROR(with("long_mscale", -1), kInvalid, "'rope_scaling.long_mscale' is -1");
  EXPECT_ERROR(with("original_max_position_embeddings", 2048), kInvalid, "2048", "4096");
  EXPECT_ERROR(with("type", nullptr), kInvalid, "'rope_scaling.short_factor' is there, but no 'rope_type'");
  json other = scaling;
  other["long_factor"][3] = 2.5;
  EXPECT_ERROR(With("phimoe", {{"rope_parameters", other}}), kInvalid, "long_factor", "2.5", "both mean one setting");
}

// Any family may have it.
TEST(Mixtral, LongRope) {
  json scaling = Golden("phimoe")["rope_scaling"];
  scaling["short_factor"] = scaling["long_factor"] = std::vector<double>(8, 2.0);
  scaling.erase("short_mscale");
  const auto model = With("mixtral", {{"rope_scaling", scaling}, {"max_position_embeddings", 8192}});
  ASSERT_OK(model);
  EXPECT_EQ(model->rope.scaling, RopeScaling::kLongRope);
  EXPECT_EQ(model->rope.factor, 2);
  EXPECT_EQ(model->rope.short_mscale, 0);
}

TEST(Granite, Multipliers) {
  const auto model = With("granitemoe", json::object());
  ASSERT_OK(model);
  EXPECT_EQ(model->embedding_scale, 12.0f);
  EXPECT_EQ(model->residual_scale, 0.22f);
  EXPECT_EQ(model->logits_scale, static_cast<float>(1 / 6.0));
  EXPECT_EQ(model->layers[0].attention.scale, 0.125f);
  EXPECT_EQ(model->moe.router.scoring, Scoring::kSoftmaxOfChosen);
  EXPECT_EQ(model->moe.shared_intermediate, 0);
  EXPECT_EQ(With("granitemoeshared", json::object())->moe.shared_intermediate, 80);
}

TEST(Llama4, LayersAndNesting) {
  const auto model = With("llama4", json::object());
  ASSERT_OK(model);
  EXPECT_EQ(model->model_type, "llama4");
  EXPECT_EQ(model->prefix, "language_model.");
  EXPECT_EQ(model->rope.scaling, RopeScaling::kLlama3);
  EXPECT_EQ(model->num_moe_layers(), 2);
  EXPECT_TRUE(model->layers[1].is_moe);
  const AttentionSpec &chunked = model->layers[0].attention, &full = model->layers[3].attention;
  EXPECT_EQ(chunked.rotation, Rotation::kRotary);
  EXPECT_EQ(chunked.keys, (KeyRange{KeyRange::Kind::kChunk, 16}));
  EXPECT_EQ(chunked.qk_norm, QkNorm::kUnit);
  EXPECT_EQ(chunked.temperature.scale, 0);
  EXPECT_EQ(full.rotation, Rotation::kNone);
  EXPECT_EQ(full.keys.kind, KeyRange::Kind::kAll);
  EXPECT_EQ(full.qk_norm, QkNorm::kNone);
  EXPECT_EQ(full.temperature, (Temperature{0.1f, 16}));
  EXPECT_EQ(With("llama4_text", json::object())->prefix, "");
  EXPECT_EQ(With("llama4_text", {{"no_rope_layers", {0, 1, 1, 1}}})->layers[0].attention.rotation, Rotation::kNone);
  EXPECT_ERROR(With("llama4_text", {{"no_rope_layers", {0, 1}}}), kInvalid, "'no_rope_layers' has 2 entries");
  EXPECT_ERROR(With("llama4_text", {{"num_experts_per_tok", 2}}), kUnimplemented, "'num_experts_per_tok' is not 1");
  EXPECT_ERROR(With("llama4", {{"text_config", nullptr}}), kInvalid, "'text_config' is missing");
}

TEST(GptOss, SinksAndWindows) {
  const auto model = With("gpt_oss", json::object());
  ASSERT_OK(model);
  EXPECT_EQ(model->layers[0].attention.keys, (KeyRange{KeyRange::Kind::kSliding, 16}));
  EXPECT_EQ(model->layers[1].attention.keys.kind, KeyRange::Kind::kAll);
  EXPECT_TRUE(model->layers[0].attention.has_sinks);
  EXPECT_EQ(model->moe.activation, (GatedActivation{GatedActivation::Kind::kClampedSwiglu, 7.0f, 1.702f}));
  const auto mxfp4 = With("gpt_oss", {{"quantization_config", {{"quant_method", "mxfp4"}}}});
  ASSERT_OK(mxfp4);
  EXPECT_EQ(mxfp4->quant.method, QuantMethod::kMxfp4);
}

json Switch(const json& changes) {
  json config = json::parse(ReadFile(std::string(std::getenv("TF_SOURCE_DIR")) +
                                     "/tests/data/encoder_decoder/switch_transformers_capacity/config.json"));
  config.update(changes);
  return config;
}

TEST(SwitchTransformers, Reads) {
  const auto model =
      ParseModelSpec(Switch({{"num_decoder_layers", 3}, {"decoder_start_token_id", 7}}).dump(), "c.json");
  ASSERT_OK(model);
  EXPECT_EQ(model->num_layers(Stack::kEncoder), 4);
  EXPECT_EQ(model->num_layers(Stack::kDecoder), 3);
  std::vector<bool> is_moe;
  for (const LayerSpec& layer : model->layers) is_moe.push_back(layer.is_moe);
  EXPECT_EQ(is_moe, (std::vector<bool>{false, true, false, true, false, true, false}));
  EXPECT_EQ(model->num_moe_layers(Stack::kDecoder), 1);
  EXPECT_EQ(model->decoder_start_token_id, 7);
  EXPECT_EQ(model->moe.sequence_capacity, 5);
  EXPECT_EQ(model->logits_scale, 0.125f);  // 64^-0.5, since the head is the embedding
  const AttentionSpec &encoder = model->layers[0].attention, &decoder = model->layers[4].attention;
  EXPECT_TRUE(encoder.sees_all && encoder.has_relative_table && decoder.has_relative_table && !decoder.sees_all);
  EXPECT_EQ(decoder.relative, (RelativeBuckets{32, 128, RelativeBuckets::Sides::kBefore}));
  EXPECT_FALSE(model->layers[1].attention.has_relative_table);
  EXPECT_EQ(encoder.scale, 1);
  EXPECT_TRUE(model->layers[4].attends_to_encoder && !model->layers[3].attends_to_encoder);
  EXPECT_EQ(model->max_position_embeddings, 512);
  const auto untied = ParseModelSpec(Switch({{"tie_word_embeddings", false}}).dump(), "c.json");
  ASSERT_OK(untied);
  EXPECT_EQ(untied->logits_scale, 1);
  const auto all = ParseModelSpec(Switch({{"encoder_sparse_step", 1}}).dump(), "c.json");
  ASSERT_OK(all);
  EXPECT_EQ(all->num_moe_layers(Stack::kEncoder), 4);
  const auto none =
      ParseModelSpec(Switch({{"encoder_sparse_step", nullptr}, {"num_sparse_encoder_layers", 0}}).dump(), "c.json");
  ASSERT_OK(none);
  EXPECT_EQ(none->num_moe_layers(Stack::kEncoder), 0);
}

TEST(SwitchTransformers, Refuses) {
  const auto parse = [](const json& changes) { return ParseModelSpec(Switch(changes).dump(), "c.json").status(); };
  EXPECT_ERROR(parse({{"feed_forward_proj", "gated-gelu"}}), kUnimplemented, "feed_forward_proj", "gated-gelu");
  EXPECT_ERROR(parse({{"is_gated_act", true}}), kUnimplemented, "is_gated_act");
  EXPECT_ERROR(parse({{"is_encoder_decoder", false}}), kUnimplemented, "is_encoder_decoder");
  EXPECT_ERROR(parse({{"router_type", "tokens_choose"}}), kUnimplemented, "router_type", "tokens_choose");
  EXPECT_ERROR(parse({{"expert_capacity", 0}}), kInvalid, "expert_capacity");
  EXPECT_ERROR(parse({{"relative_attention_num_buckets", 30}}), kInvalid, "relative_attention_num_buckets");
  EXPECT_ERROR(parse({{"relative_attention_max_distance", 16}}), kInvalid, "relative_attention_num_buckets");
  EXPECT_ERROR(parse({{"decoder_start_token_id", 320}}), kInvalid, "decoder_start_token_id");
}

}  // namespace
}  // namespace tokenferry::testing

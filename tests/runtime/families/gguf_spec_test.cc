// What the metadata of GGUF files means as a model, and what is refused.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>

#include "runtime/families/families.h"
#include "runtime/model/generation_config.h"
#include "runtime/model/tensor_plan.h"
#include "tests/support/gguf_writer.h"
#include "tests/support/status_matchers.h"

namespace tokenferry::testing {
namespace {

std::string DataDir() { return std::string(std::getenv("TF_SOURCE_DIR")) + "/tests/data/"; }

// The model that the hub's files describe, but for names.
TEST(GgufSpec, IsTheModelThatWasConverted) {
  for (const auto& [file, family] : {std::pair<std::string, std::string>{"deepseek_v2_lite", "deepseek_v2_lite"},
                                     {"qwen3_moe_blocks", "qwen3_moe"}}) {
    SCOPED_TRACE(file);
    const std::string path = DataDir() + "gguf/" + file + ".gguf";
    const auto got = LoadModelSpec(path), hub = LoadModelSpec(DataDir() + "families/" + family);
    ASSERT_OK(got);
    ASSERT_OK(hub);
    ModelSpec want = *hub;
    want.dtype = DType::kF32;
    want.layer_prefix = "blk.";
    want.fused = FusedExperts::kStacked;
    want.fused_instead.reset();
    want.names = got->names;
    for (LayerSpec& layer : want.layers) {
      // From a tenth of mscale_all_dim in F32.
      EXPECT_NEAR(layer.attention.scale, got->layers[0].attention.scale, 1e-6f * layer.attention.scale);
      layer.attention.scale = got->layers[0].attention.scale;
    }
    EXPECT_NEAR(want.rope.mscale_all_dim, got->rope.mscale_all_dim, 1e-6);
    want.rope.mscale = got->rope.mscale;
    want.rope.mscale_all_dim = got->rope.mscale_all_dim;
    EXPECT_TRUE(*got == want);
    const auto generation = LoadGenerationConfig(path, *got);
    ASSERT_OK(generation);
    EXPECT_EQ(generation->eos_token_ids, hub->eos_token_ids);
  }
}

// A file of two layers without tensors that matter, for what is read before them.
class GgufMetadata : public ::testing::Test {
 protected:
  GgufWriter Llama() {
    GgufWriter out;
    out.Key("general.architecture", "llama").Key("llama.block_count", uint32_t{2});
    out.Key("llama.embedding_length", uint32_t{64}).Key("llama.context_length", uint32_t{128});
    out.Key("llama.feed_forward_length", uint32_t{96}).Key("llama.attention.head_count", uint32_t{4});
    out.Key("llama.attention.head_count_kv", uint32_t{2}).Key("llama.attention.layer_norm_rms_epsilon", 1e-5f);
    out.Key("llama.expert_count", uint32_t{8}).Key("llama.expert_used_count", uint32_t{2});
    return out;
  }
  absl::StatusOr<ModelSpec> Load(GgufWriter out) {
    WriteFile(path_, out.Tensor("token_embd.weight", 0, {64, 4}, std::string(1024, '\0')).Bytes());
    return LoadModelSpec(path_);
  }
  TempDir dir_;
  const std::string path_ = dir_.path() + "/m.gguf";
};

TEST_F(GgufMetadata, SaysWhatTheModelIs) {
  const auto model =
      Load(Llama().Key("tokenizer.ggml.eos_token_id", uint32_t{2}).Key("tokenizer.ggml.eot_token_id", uint32_t{3}));
  ASSERT_OK(model);
  EXPECT_EQ(model->vocab_size, 4);  // the embedding's rows
  EXPECT_TRUE(model->tie_word_embeddings);
  EXPECT_EQ(model->rope.theta, 10000);
  EXPECT_EQ(model->eos_token_ids, (std::vector<int32_t>{2, 3}));
  const auto checkpoint = Checkpoint::Open(path_);
  ASSERT_OK(checkpoint);
  EXPECT_ERROR(CheckCheckpoint(*model, *checkpoint), kInvalid, path_, "tensors that the metadata asks for are missing",
               "F32 [64] 'blk.0.attn_norm.weight'");
}

TEST_F(GgufMetadata, WhatIsNotKnownIsRefusedByName) {
  EXPECT_ERROR(LoadModelSpec(dir_.path() + "/none.gguf"), absl::StatusCode::kNotFound, "none.gguf");
  GgufWriter other;
  EXPECT_ERROR(
      Load(other.Key("general.architecture", "gemma4")), kUnimplemented, path_,
      "'general.architecture' names the architecture 'gemma4'; known: llama, llama4, qwen2moe, qwen3moe, olmoe, "
      "deepseek2, glm4moe, ",
      "minimax-m2, gpt-oss, phimoe, granitemoe");
  EXPECT_ERROR(Load(GgufWriter()), kInvalid, path_, "'general.architecture' is missing");
  EXPECT_ERROR(Load(Llama().Key("llama.rope.scaling.type", "longrope")), kUnimplemented,
               "'llama.rope.scaling.type' names the scaling of the rotation 'longrope'");
  EXPECT_EQ(Load(Llama().Key("llama.rope.scaling.factor", 4.0f))->rope.factors, std::vector<double>(8, 4.0));
  EXPECT_EQ(Load(Llama().Key("llama.rope.scale_linear", 2.0f))->rope.factors, std::vector<double>(8, 2.0));
  EXPECT_EQ(Load(Llama().Key("llama.rope.scaling.factor", 1.0f))->rope.scaling, RopeScaling::kNone);
  EXPECT_ERROR(Load(Llama().Key("llama.rope.scaling.type", "linear").Key("llama.rope.scaling.factor", 0.5f)), kInvalid,
               "factor' is 0.5");
  const auto yarn = [&] {
    return Llama().Key("llama.rope.scaling.type", "yarn").Key("llama.rope.scaling.factor", 4.0f);
  };
  for (const std::string name : {"attn_factor", "yarn_attn_factor", "yarn_ext_factor"}) {
    const std::string key = "llama.rope.scaling." + name;
    EXPECT_ERROR(Load(yarn().Key(key, 0.5f)), kUnimplemented, "'" + key + "' is 0.5; only 1 is supported");
    EXPECT_ERROR(Load(Llama().Key(key, 1.25f)), kUnimplemented, "'" + key + "' is 1.25");
    EXPECT_TRUE(Load(yarn().Key(key, 1.0f)).ok());
    EXPECT_EQ(Load(yarn().Key(key, -1.0f)).ok(), name == "yarn_ext_factor");
    EXPECT_FALSE(Load(yarn().Key(key, 0.0f)).ok());
    EXPECT_EQ(Load(Llama().Key(key, 0.0f)).ok(), name == "yarn_ext_factor");
  }
  EXPECT_ERROR(Load(Llama().Key("llama.rope.dimension_count", uint32_t{8})), kUnimplemented,
               "'llama.rope.dimension_count' is 8, but heads have 16");
  EXPECT_ERROR(Load(Llama().Key("llama.attention.key_length", "x")), kInvalid, path_, "llama.attention.key_length");
  GgufWriter dense;
  dense.Key("general.architecture", "llama").Key("llama.attention.head_count", uint32_t{4});
  EXPECT_ERROR(Load(dense), kUnimplemented, "'llama.expert_count' is missing or 0: a model without experts");
}

TEST_F(GgufMetadata, FactorsOfTheRotation) {
  const auto with = [&](GgufWriter out, const std::vector<float>& factors) {
    return Load(out.Tensor("rope_freqs.weight", 0, {factors.size()},
                           {reinterpret_cast<const char*>(factors.data()), factors.size() * sizeof(float)}));
  };
  const std::vector<float> factors = {1, 1, 1, 1.5f, 2, 8, 8, 8};
  const auto model = with(Llama(), factors);
  ASSERT_OK(model);
  EXPECT_EQ(model->rope.scaling, RopeScaling::kFactors);
  EXPECT_EQ(model->rope.factors, std::vector<double>(factors.begin(), factors.end()));
  EXPECT_ERROR(with(Llama(), {1, 2}), kInvalid, path_,
               "tensor 'rope_freqs.weight' is F32 [2], must be F32 [8]: a factor for each pair that turns");
  EXPECT_ERROR(Load(Llama().Tensor("rope_freqs.weight", 1, {8}, std::string(16, 'a'))), kInvalid,
               "tensor 'rope_freqs.weight' is F16 [8], must be F32 [8]");
  EXPECT_ERROR(Load(Llama().Tensor("rope_freqs.weight", 10, {256}, std::string(84, 'a'))), kInvalid,
               "tensor 'rope_freqs.weight' has the type Q2_K");
  EXPECT_ERROR(with(Llama(), {1, 1, 1, 0, 1, 1, 1, 1}), kInvalid, "tensor 'rope_freqs.weight'",
               "factors has 0, must be positive");
  EXPECT_ERROR(with(Llama(), {1, 1, 1, NAN, 1, 1, 1, 1}), kInvalid, "factors has nan, must be positive");
  GgufWriter yarn = Llama();
  yarn.Key("llama.rope.scaling.type", "yarn").Key("llama.rope.scaling.factor", 4.0f);
  yarn.Key("llama.rope.scaling.original_context_length", uint32_t{32});
  EXPECT_ERROR(with(yarn, factors), kUnimplemented,
               "tensor 'rope_freqs.weight' is there beside another scaling of the rotation; only one is supported");
}

TEST_F(GgufMetadata, FactorsOfShortAndLongSequences) {
  const std::string factors = [] {
    const std::vector<float> values = {1, 1, 1, 1.5f, 2, 3, 4, 5};
    return std::string(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float));
  }();
  const auto both = [&](GgufWriter out) {
    return out.Tensor("rope_factors_long.weight", 0, {8}, factors).Tensor("rope_factors_short.weight", 0, {8}, factors);
  };
  const auto with_context = [&] { return Llama().Key("llama.rope.scaling.original_context_length", uint32_t{32}); };
  const auto model = Load(both(with_context().Key("llama.rope.scaling.type", "longrope")));
  ASSERT_OK(model);
  EXPECT_EQ(model->rope.scaling, RopeScaling::kLongRope);
  EXPECT_EQ(model->rope.original_max_position, 32);
  EXPECT_EQ(model->rope.factor, 4);
  EXPECT_EQ(model->rope.long_factors, (std::vector<double>{1, 1, 1, 1.5, 2, 3, 4, 5}));
  EXPECT_FALSE(model->rope.attention_factor.has_value());
  EXPECT_EQ(Load(both(with_context().Key("llama.rope.scaling.attn_factor", 1.25f)))->rope.attention_factor, 1.25);
  EXPECT_ERROR(Load(both(Llama())), kInvalid, "'llama.rope.scaling.original_context_length' is missing");
  EXPECT_ERROR(Load(with_context().Tensor("rope_factors_long.weight", 0, {8}, factors)), kInvalid,
               "tensor 'rope_factors_short.weight' is missing, but its sibling is there");
  EXPECT_ERROR(Load(with_context().Tensor("rope_factors_short.weight", 0, {8}, factors)), kInvalid,
               "tensor 'rope_factors_long.weight' is missing, but its sibling is there");
  EXPECT_ERROR(Load(both(with_context()).Tensor("rope_freqs.weight", 0, {8}, factors)), kUnimplemented,
               "is there beside another scaling of the rotation; only one is supported");
}

TEST_F(GgufMetadata, Llama4IsOneOfTwoModels) {
  const auto llama4 = [](uint32_t num_experts) {
    GgufWriter out;
    out.Key("general.architecture", "llama4").Key("llama4.block_count", uint32_t{4});
    out.Key("llama4.embedding_length", uint32_t{64}).Key("llama4.context_length", uint32_t{16384});
    out.Key("llama4.feed_forward_length", uint32_t{96}).Key("llama4.attention.head_count", uint32_t{4});
    out.Key("llama4.attention.head_count_kv", uint32_t{2}).Key("llama4.attention.layer_norm_rms_epsilon", 1e-5f);
    out.Key("llama4.expert_count", num_experts).Key("llama4.expert_used_count", uint32_t{1});
    out.Key("llama4.interleave_moe_layer_step", uint32_t{2});
    return out;
  };
  const auto with_width = [&](uint32_t num_experts) {
    return llama4(num_experts).Key("llama4.expert_feed_forward_length", uint32_t{48});
  };
  const auto scout = Load(with_width(16)), maverick = Load(with_width(128));
  ASSERT_OK(scout);
  ASSERT_OK(maverick);
  EXPECT_EQ(scout->layers[0].attention.qk_norm, QkNorm::kUnit);
  EXPECT_EQ(maverick->layers[0].attention.qk_norm, QkNorm::kNone);
  EXPECT_EQ(scout->layers[0].attention.keys.kind, KeyRange::Kind::kChunk);
  EXPECT_EQ(scout->layers[0].attention.keys.size, 8192);
  EXPECT_EQ(scout->layers[3].attention.rotation, Rotation::kNone);
  EXPECT_FALSE(scout->layers[0].is_moe);
  EXPECT_TRUE(scout->layers[1].is_moe);
  EXPECT_EQ(scout->layers[0].dense_intermediate, 96);
  EXPECT_EQ(scout->moe.intermediate, 48);
  EXPECT_ERROR(Load(llama4(16)), kInvalid, "'llama4.expert_feed_forward_length' is missing");
  EXPECT_ERROR(Load(with_width(16).Key("llama4.attention.sliding_window", uint32_t{0})), kUnimplemented,
               "'llama4.attention.sliding_window' is 0; only chunks of 8192 are supported");
}

// Blocks lie along a row: what ends in a dimension of one is no row that was turned.
TEST_F(GgufMetadata, OnlyFirstDimensionsOfOneAreLeftOut) {
  GgufWriter out = Llama();
  out.Tensor("blk.0.attn_norm.weight", 0, {64, 1}, std::string(256, '\0'));
  out.Tensor("blk.0.attn_q.weight", 8, {64 * 64, 1}, std::string(64 * 64 / 32 * 34, '\0'));  // Q8_0
  const auto model = Load(out);
  ASSERT_OK(model);
  const auto checkpoint = Checkpoint::Open(path_);
  ASSERT_OK(checkpoint);
  EXPECT_ERROR(CheckCheckpoint(*model, *checkpoint), kInvalid,
               "tensor 'blk.0.attn_q.weight' is Q8_0 [1, 4096], but the metadata asks for [64, 64]");
}

TEST_F(GgufMetadata, AColumnIsNoRow) {
  GgufWriter out;
  out.Key("general.architecture", "qwen2moe").Key("qwen2moe.block_count", uint32_t{1});
  out.Key("qwen2moe.embedding_length", uint32_t{64}).Key("qwen2moe.context_length", uint32_t{128});
  out.Key("qwen2moe.feed_forward_length", uint32_t{96}).Key("qwen2moe.attention.head_count", uint32_t{4});
  out.Key("qwen2moe.attention.head_count_kv", uint32_t{2}).Key("qwen2moe.attention.layer_norm_rms_epsilon", 1e-5f);
  out.Key("qwen2moe.expert_count", uint32_t{8}).Key("qwen2moe.expert_used_count", uint32_t{2});
  out.Key("qwen2moe.expert_feed_forward_length", uint32_t{1});
  out.Key("qwen2moe.expert_shared_feed_forward_length", uint32_t{96});
  out.Tensor("blk.0.ffn_down_exps.weight", 8, {64, 1, 8}, std::string(8 * 2 * 34, '\0'));  // Q8_0
  const auto model = Load(out);
  ASSERT_OK(model);
  const auto checkpoint = Checkpoint::Open(path_);
  ASSERT_OK(checkpoint);
  EXPECT_ERROR(CheckCheckpoint(*model, *checkpoint), kInvalid,
               "tensor 'blk.0.ffn_down_exps.weight' is Q8_0 [8, 1, 64], but the metadata asks for [8, 64, 1]");
}

// What is wrong with a tensor matters where it is needed.
TEST_F(GgufMetadata, FaultsOfTensorsAreThoseOfWhatNeedsThem) {
  const auto check = [&](const std::string& path) -> absl::StatusOr<CheckedPlan> {
    TF_ASSIGN_OR_RETURN(const ModelSpec model, LoadModelSpec(path));
    TF_ASSIGN_OR_RETURN(const Checkpoint checkpoint, Checkpoint::Open(path));
    return CheckCheckpoint(model, checkpoint);
  };
  const std::string whole = ReadFile(DataDir() + "gguf/deepseek_v2_lite.gguf");
  WriteFile(path_, whole.substr(0, whole.size() - 64));
  EXPECT_ERROR(check(path_), kInvalid, path_, "of the data, but the file has only ",
               "(is it complete?), and it is needed");
  // Two shards that both have a norm, and a tensor that nobody asks for.
  const auto shard = [&](int number, const std::string& own) {
    const std::string name = absl::StrCat(dir_.path(), "/m-0000", number, "-of-00002.gguf");
    GgufWriter out = number == 1 ? Llama() : GgufWriter();
    out.Key("split.count", uint16_t{2}).Tensor(own, 0, {64, 4}, std::string(1024, '\0'));
    for (const char* both : {"blk.0.attn_norm.weight", "blk.7.extra"})
      out.Tensor(both, 0, {64}, std::string(256, '\0'));
    WriteFile(name, out.Bytes());
    return name;
  };
  const std::string first = shard(1, "token_embd.weight"), second = shard(2, "other");
  EXPECT_ERROR(check(first), kInvalid, second + ": tensor 'blk.0.attn_norm.weight' is in " + first + " too",
               "'blk.0.attn_norm.weight' is needed");
  const auto checkpoint = Checkpoint::Open(first);
  ASSERT_OK(checkpoint);
  EXPECT_EQ(checkpoint->faults().size(), 2u);  // a warning where nobody needs it (CheckCheckpoint)
}

// The first tensor that is needed, and how many there are.
TEST_F(GgufMetadata, TypesThatAreNotReadAreRefused) {
  GgufWriter out = Llama();
  out.Tensor("blk.0.attn_norm.weight", 0, {64}, std::string(256, '\0'));
  out.Tensor("blk.0.attn_q.weight", 10, {256, 16}, std::string(84 * 16, '\0'));  // Q2_K
  out.Tensor("blk.0.attn_k.weight", 77, {64, 32}, "");
  const auto model = Load(out);
  ASSERT_OK(model);
  const auto checkpoint = Checkpoint::Open(path_);
  ASSERT_OK(checkpoint);
  EXPECT_ERROR(
      CheckCheckpoint(*model, *checkpoint), kInvalid,
      "tensor 'blk.0.attn_q.weight' has the type Q2_K, which is not supported (of 4 tensors in the file 2 have "
      "such types), and it is needed");
}

}  // namespace
}  // namespace tokenferry::testing

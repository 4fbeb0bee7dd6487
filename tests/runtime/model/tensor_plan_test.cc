#include "runtime/model/tensor_plan.h"

#include <gtest/gtest.h>

#include <cstdlib>

#include "runtime/families/families.h"
#include "runtime/model/model_summary.h"
#include "tests/support/checkpoint_writer.h"
#include "tests/support/status_matchers.h"

namespace tokenferry::testing {
namespace {

// The published shapes of DeepSeek-V3; Kimi-K2 differs in a few numbers.
DeepSeekConfig DeepSeekV3() {
  return {.vocab_size = 129280,
          .hidden_size = 7168,
          .num_hidden_layers = 61,
          .num_nextn_predict_layers = 1,
          .max_position_embeddings = 163840,
          .num_attention_heads = 128,
          .q_lora_rank = 1536,
          .kv_lora_rank = 512,
          .qk_nope_head_dim = 128,
          .qk_rope_head_dim = 64,
          .v_head_dim = 128,
          .intermediate_size = 18432,
          .moe_intermediate_size = 2048,
          .first_k_dense_replace = 3,
          .n_routed_experts = 256,
          .n_shared_experts = 1,
          .num_experts_per_tok = 8,
          .n_group = 8,
          .topk_group = 4,
          .routed_scaling_factor = 2.5,
          .fp8_block = 128};
}

DeepSeekConfig KimiK2() {
  DeepSeekConfig config = DeepSeekV3();
  config.model_type = "kimi_k2";
  config.vocab_size = 163840;
  config.num_attention_heads = 64;
  config.first_k_dense_replace = 1;
  config.n_routed_experts = 384;
  config.n_group = config.topk_group = 1;
  return config;
}

TEST(ModelSummary, CountsThePublishedModels) {
  // In units of 1e6; the published figures are given to 0.001e9.
  const PartSummary v3 = SummarizeModel(*PlanTensors(SpecOf(DeepSeekV3()))).Total();
  EXPECT_NEAR(static_cast<double>(v3.num_params) / 1e6, 671'026, 0.5);
  EXPECT_NEAR(static_cast<double>(v3.num_active_params) / 1e6, 37'552, 0.5);
  const PartSummary k2 = SummarizeModel(*PlanTensors(SpecOf(KimiK2()))).Total();
  EXPECT_NEAR(static_cast<double>(k2.num_params) / 1e6, 1'026'408, 0.5);
  EXPECT_NEAR(static_cast<double>(k2.num_active_params) / 1e6, 32'862, 0.5);
}

TEST(ModelSummary, PartsAndTypesAddUp) {
  const TensorPlan plan = *PlanTensors(SpecOf(DeepSeekV3()));
  const ModelSummary summary = SummarizeModel(plan);
  EXPECT_EQ(summary.num_moe_layers, 58);
  EXPECT_EQ(summary.part(ModelPart::kEmbedding).num_params, int64_t{129280} * 7168);
  EXPECT_EQ(summary.part(ModelPart::kHead).num_bytes, int64_t{129280} * 7168 * 2);
  EXPECT_EQ(summary.part(ModelPart::kRoutedExpert).num_params, int64_t{58} * 256 * 3 * 2048 * 7168);
  EXPECT_EQ(summary.part(ModelPart::kRoutedExpert).num_active_params, int64_t{58} * 8 * 3 * 2048 * 7168);
  EXPECT_EQ(summary.part(ModelPart::kSharedExpert).num_params, int64_t{58} * 3 * 2048 * 7168);
  EXPECT_EQ(summary.part(ModelPart::kDenseFfn).num_params, int64_t{3} * 3 * 18432 * 7168);
  EXPECT_EQ(summary.part(ModelPart::kRouter).num_params, int64_t{58} * (256 * 7168 + 256));
  // kv_a_proj_with_mqa [576, 7168] has 5 x 56 blocks, the last row of them partial.
  int64_t scales = 0, by_dtype = 0;
  for (const TensorSpec& spec : plan.tensors) {
    if (spec.name() == "model.layers.7.self_attn.kv_a_proj_with_mqa.weight") {
      EXPECT_EQ(spec.stored[1].shape, (std::vector<int64_t>{5, 56}));
      scales = spec.memory_bytes().scales;
      EXPECT_EQ(scales, spec.stored[1].num_bytes());
    }
  }
  EXPECT_EQ(scales, 5 * 56 * 4);
  for (const auto& [dtype, num_bytes] : summary.bytes_by_dtype) by_dtype += num_bytes;
  EXPECT_EQ(by_dtype, summary.Total().num_bytes);
  EXPECT_GT(summary.bytes_by_dtype.at(DType::kF8E4M3), int64_t{650'000'000'000});
}

TEST(ModelSummary, RanksShareTheExpertsAndRepeatTheRest) {
  const TensorPlan plan = *PlanTensors(SpecOf(TinyConfig()));
  const ModelSummary summary = SummarizeModel(plan);
  const int64_t experts = summary.part(ModelPart::kRoutedExpert).num_bytes;
  const int64_t rest = summary.Total().num_bytes - experts;
  const auto ranks = BytesPerRank(plan, Placement::Linear(8, 3));  // 3, 3, 2 experts
  EXPECT_EQ(ranks, (std::vector<int64_t>{rest + experts * 3 / 8, rest + experts * 3 / 8, rest + experts * 2 / 8}));
  const auto replicated = Placement::FromTable(8, {{0, 1, 2, 3, 4, 5, 6, 7}, {3}, {}});
  ASSERT_OK(replicated);
  EXPECT_EQ(BytesPerRank(plan, *replicated), (std::vector<int64_t>{rest + experts, rest + experts / 8, rest}));
}

TEST(TensorPlan, NamesFollowTheLayers) {
  DeepSeekConfig config = TinyConfig();
  config.q_lora_rank = 0;
  config.n_shared_experts = 0;
  config.tie_word_embeddings = true;
  std::vector<std::string> names;
  const auto plan = PlanTensors(SpecOf(config));
  ASSERT_OK(plan);
  for (const TensorSpec& spec : plan->tensors) {
    names.push_back(DescribeTensor(spec.dtype(), spec.shape) + " " + spec.name());
  }
  const auto has = [&](const std::string& name) { return std::find(names.begin(), names.end(), name) != names.end(); };
  EXPECT_TRUE(has("F32 [20, 24] model.layers.0.self_attn.q_proj.weight"));
  EXPECT_TRUE(has("F32 [18, 24] model.layers.2.self_attn.kv_a_proj_with_mqa.weight"));
  EXPECT_TRUE(has("F32 [22, 14] model.layers.1.self_attn.kv_b_proj.weight"));
  EXPECT_TRUE(has("F32 [24, 10] model.layers.1.self_attn.o_proj.weight"));
  EXPECT_TRUE(has("F32 [24, 40] model.layers.0.mlp.down_proj.weight"));
  EXPECT_TRUE(has("F32 [8] model.layers.1.mlp.gate.e_score_correction_bias"));
  EXPECT_TRUE(has("F32 [20, 24] model.layers.2.mlp.experts.7.up_proj.weight"));
  EXPECT_TRUE(has("F32 [24] model.norm.weight"));
  EXPECT_FALSE(has("F32 [37, 24] lm_head.weight"));
  // 2 outside the layers; 7 per layer besides the FFN; dense 3; MoE 2 + 8 * 3, twice.
  EXPECT_EQ(names.size(), 2u + 3 * 7 + 3 + 2 * 26);
}

TEST(CheckCheckpoint, AcceptsTheShippedModel) {
  const std::string dir = std::string(std::getenv("TF_SOURCE_DIR")) + "/models/ferry-tiny-v3";
  const auto config = LoadModelSpec(dir);
  const auto checkpoint = Checkpoint::Open(dir);
  ASSERT_OK(config);
  ASSERT_OK(checkpoint);
  const int64_t bytes_read = checkpoint->bytes_read();
  const auto checked = CheckCheckpoint(*config, *checkpoint);
  ASSERT_OK(checked);
  EXPECT_EQ(checkpoint->bytes_read(), bytes_read);  // headers only
  EXPECT_EQ(checked->num_unknown, 0);
  const ModelSummary summary = SummarizeModel(checked->plan);
  // Every byte of the data is either planned or skipped (the index's total_size).
  EXPECT_EQ(summary.Total().num_bytes + checked->skipped_bytes, 23'216'112);
  EXPECT_NEAR(static_cast<double>(summary.Total().num_params) / 1e6, 15.9, 0.05);
  EXPECT_EQ(SummarizeModel(*PlanTensors(*config)).bytes_by_dtype, summary.bytes_by_dtype);  // config implied the types
}

// A tiny FP8 checkpoint whose tensors a test changes before it is written and checked.
class DamagedCheckpoint : public ::testing::Test {
 protected:
  void SetUp() override {
    spec_.config = TinyConfig();
    spec_.config.dtype = DType::kBF16;
    spec_.config.fp8_block = 16;
    spec_.num_shards = 2;
    tensors_ = RandomTensors(spec_);
  }
  absl::StatusOr<CheckedPlan> Check() {
    WriteCheckpoint(dir_.path(), spec_, tensors_);
    TF_ASSIGN_OR_RETURN(const auto checkpoint, Checkpoint::Open(dir_.path()));
    return CheckCheckpoint(SpecOf(spec_.config), checkpoint);
  }
  void Remove(const std::string& name) {
    std::erase_if(tensors_, [&](const FileTensor& t) { return t.name == name; });
  }
  FileTensor& Tensor(const std::string& name) { return FindTensor(tensors_, name); }

  TempDir dir_;
  RandomCheckpoint spec_;
  std::vector<FileTensor> tensors_;
};

constexpr char kUp[] = "model.layers.2.mlp.experts.5.up_proj.weight";

TEST_F(DamagedCheckpoint, IsFineBeforehand) {
  spec_.with_mtp = true;
  spec_.config.num_nextn_predict_layers = 1;
  tensors_ = RandomTensors(spec_);
  const auto checked = Check();
  ASSERT_OK(checked);
  EXPECT_EQ(checked->num_unknown, 0);
  EXPECT_EQ(checked->num_skipped, 4);
}

TEST_F(DamagedCheckpoint, NamesMissingTensors) {
  Remove(kUp);
  Remove("model.norm.weight");
  EXPECT_ERROR(Check(), kInvalid, dir_.path(), "2 of ", absl::StrCat("F8_E4M3 [20, 24] '", kUp, "'"),
               "'model.norm.weight'");
}

TEST_F(DamagedCheckpoint, ManyMissingTensorsStayOneShortLine) {
  spec_.num_shards = 1;
  tensors_.resize(1);
  const auto status = StatusOf(Check());
  EXPECT_ERROR(status, kInvalid, "tensors that config.json asks for are missing", ", ...");
  EXPECT_LT(status.message().size(), 800u);
}

TEST_F(DamagedCheckpoint, NamesWrongShapes) {
  Tensor(kUp).shape = {24, 20};
  EXPECT_ERROR(Check(), kInvalid, "model-00002-of-00002.safetensors", kUp, "is F8_E4M3 [24, 20]", "asks for [20, 24]");
  Tensor(kUp).shape = {480};
  EXPECT_ERROR(Check(), kInvalid, "F8_E4M3 [480]");
}

TEST_F(DamagedCheckpoint, NamesWrongTypes) {
  Tensor(kUp).dtype = DType::kI8;
  EXPECT_ERROR(Check(), kInvalid, kUp, "is I8 [20, 24], but must be F32, BF16, F16 or F8_E4M3 with scales");
  tensors_ = RandomTensors(spec_);
  Tensor("model.norm.weight").dtype = DType::kI16;
  EXPECT_ERROR(Check(), kInvalid, "'model.norm.weight' is I16 [24], but must be F32, BF16 or F16");
  tensors_ = RandomTensors(spec_);
  FileTensor& router = Tensor("model.layers.1.mlp.gate.weight");
  router.dtype = DType::kF8E4M3;
  router.data.resize(router.data.size() / 2);
  EXPECT_ERROR(Check(), kInvalid, "'model.layers.1.mlp.gate.weight' is F8_E4M3 [8, 24], but must be F32, BF16 or F16");
}

TEST_F(DamagedCheckpoint, NamesBadScales) {
  const std::string scales = absl::StrCat(kUp, "_scale_inv");
  FileTensor& tensor = Tensor(scales);
  ASSERT_EQ(tensor.shape, (std::vector<int64_t>{2, 2}));
  tensor.shape = {4, 1};
  EXPECT_ERROR(Check(), kInvalid, scales, "is F32 [4, 1], but ", "F8_E4M3 [20, 24] needs F32, BF16 or F16 [2, 2]");
  tensor.shape = {2, 2};
  tensor.dtype = DType::kI32;
  EXPECT_ERROR(Check(), kInvalid, scales, "is I32 [2, 2]");
  Remove(scales);
  EXPECT_ERROR(Check(), kInvalid, kUp, "its scales", scales, "F32 [2, 2] are missing");
}

TEST_F(DamagedCheckpoint, NeedsToKnowTheBlocks) {
  spec_.config.fp8_block = 0;
  EXPECT_ERROR(Check(), kInvalid, "is stored as F8_E4M3, but config.json has no quantization_config");
}

TEST_F(DamagedCheckpoint, AcceptsUnquantisedTensorsAmongQuantised) {
  FileTensor& tensor = Tensor(kUp);
  tensor.dtype = DType::kBF16;
  tensor.data = std::string(tensor.data.size() * 2, '\0');
  const std::string scales = absl::StrCat(kUp, "_scale_inv");
  EXPECT_ERROR(Check(), kInvalid, absl::StrCat("'", scales, "' is one too many: '", kUp, "' is BF16 [20, 24]"));
  Remove(scales);
  const auto checked = Check();
  ASSERT_OK(checked);
  EXPECT_EQ(checked->num_unknown, 0);
  EXPECT_ERROR(CheckGpuFormats(checked->plan), absl::StatusCode::kUnimplemented, absl::StrCat("'", kUp, "' is BF16"),
               "'model.layers.2.mlp.experts.0.up_proj.weight' is F8_E4M3");
  ASSERT_OK(CheckGpuFormats(*PlanTensors(SpecOf(spec_.config))));
}

TEST_F(DamagedCheckpoint, ReportsUnknownTensorsAndSkipsKnownOnes) {
  const FileTensor one{"", DType::kF32, {1}, std::string(4, '\0')};
  for (int i = 0; i < 9; ++i) {
    tensors_.push_back(one);
    tensors_.back().name = absl::StrCat("model.layers.0.strange.", i);
  }
  for (const char* name : {"model.layers.1.self_attn.rotary_emb.inv_freq", "model.layers.3.enorm.weight",
                           "model.layers.17.mlp.experts.3.up_proj.weight"}) {
    tensors_.push_back(one);
    tensors_.back().name = name;
  }
  const auto checked = Check();
  ASSERT_OK(checked);
  EXPECT_EQ(checked->num_unknown, 9);
  EXPECT_EQ(checked->unknown_names.size(), 5u);
  EXPECT_EQ(checked->num_skipped, 3);
  EXPECT_EQ(checked->skipped_bytes, 12);
}

TEST_F(DamagedCheckpoint, SkipsATiedHead) {
  spec_.config.tie_word_embeddings = true;
  const auto checked = Check();
  ASSERT_OK(checked);
  EXPECT_EQ(checked->num_skipped, 1);
  EXPECT_EQ(checked->num_unknown, 0);
}

}  // namespace
}  // namespace tokenferry::testing

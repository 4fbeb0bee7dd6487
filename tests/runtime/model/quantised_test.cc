// Checkpoints with quantised projections: what is refused, and what memory then holds. What they compute is
// families_golden_test's.
#include <gtest/gtest.h>

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "runtime/families/families.h"
#include "runtime/model/expert_dtype.h"
#include "runtime/model/model_summary.h"
#include "runtime/model/weights.h"
#include "tests/runtime/model/quantised_fixture.h"
#include "tests/support/status_matchers.h"

namespace tokenferry::testing {
namespace {

using nlohmann::json;

const std::string kGate = "model.layers.1.mlp.experts.3.gate_proj.";

TEST_F(Quantised, AllFoldersAreFineBeforehand) {
  for (const char* family : {"deepseek_v3_int4", "gpt_oss_mxfp4", "mixtral_awq", "mixtral_fp8_tensor", "olmoe_int8",
                             "qwen2_moe_gptq8", "qwen3_moe_fp8_channel", "qwen3_moe_gptq", "qwen3_moe_int8_packed"}) {
    Start(family);
    EXPECT_EQ(absl::OkStatus(), Load());
    EXPECT_EQ(checked_.num_unknown, 0) << family;
    // Nothing is read twice, whatever shares a tensor, and what is kept is what was planned.
    const int64_t stored = SummarizeModel(checked_.plan).Total().num_bytes;
    EXPECT_EQ(stats_.bytes_read, stored) << family;
    EXPECT_EQ(stats_.bytes_kept, kept_) << family;
    EXPECT_EQ(conversion_, 0);
    EXPECT_EQ(stats_.conversion_bytes, 0);
    int num_converting = 0;
    for (const ExpertDtype dtype : kExpertDtypes) {
      expert_dtype_ = dtype;
      EXPECT_EQ(absl::OkStatus(), Load());
      EXPECT_EQ(stats_.bytes_read, stored) << family << " " << ExpertDtypeName(dtype);
      EXPECT_EQ(stats_.bytes_kept, kept_) << family << " " << ExpertDtypeName(dtype);
      num_converting += conversion_ > 0 ? 1 : 0;
      // Data, scales and zero points of three matrices, each on a cache line of its own.
      EXPECT_GE(stats_.conversion_bytes, conversion_) << family << " " << ExpertDtypeName(dtype);
      EXPECT_LT(stats_.conversion_bytes, conversion_ + 3 * 3 * 64) << family << " " << ExpertDtypeName(dtype);
    }
    EXPECT_GE(num_converting, 4) << family;  // one type may be what is stored
    EXPECT_EQ(ConversionBytesPerRank(checked_.plan,
                                     Placement::Linear(static_cast<int>(checked_.plan.model.moe.num_experts), 3)),
              std::vector<int64_t>(3, conversion_));
    expert_dtype_ = ExpertDtype::kStored;
    ASSERT_EQ(absl::OkStatus(), Load());
    // config.json alone says the same of every tensor.
    const auto implied = PlanTensors(checked_.plan.model);
    ASSERT_OK(implied);
    const ModelSummary want = SummarizeModel(checked_.plan), got = SummarizeModel(*implied);
    EXPECT_EQ(got.Total().num_params, want.Total().num_params);
    EXPECT_EQ(got.part(ModelPart::kRoutedExpert).num_bytes, want.part(ModelPart::kRoutedExpert).num_bytes) << family;
  }
}

// Two numbers of one group fit into a byte; in two bits, in steps of 1.93e38 with a zero point of 2, one would be
// infinite.
TEST_F(Quantised, ConversionsNameTheTensorThatDoesNotFit) {
  const std::string name = "model.layers.1.mlp.experts.3.up_proj.weight";
  Start("qwen3_moe");
  const BF16 ends[] = {ToBF16(2.6e38f), ToBF16(-3.2e38f)};
  std::memcpy(Tensor(name).data.data() + 70 * sizeof(BF16), ends, sizeof(ends));
  for (const ExpertDtype dtype : {ExpertDtype::kStored, ExpertDtype::kInt8}) {
    expert_dtype_ = dtype;
    EXPECT_EQ(absl::OkStatus(), Load());
  }
  expert_dtype_ = ExpertDtype::kInt2;
  EXPECT_ERROR(Load(), kDataLoss, absl::StrCat("'", name, "' does not fit into U2 with zero points"), "in 1 group ");
}

TEST_F(Quantised, ScalesAreThereAndFit) {
  Start("qwen3_moe_gptq");
  Remove(kGate + "scales");
  EXPECT_ERROR(Load(), kInvalid, kGate + "qweight' is stored as I32 [32, 128], but its scales '",
               "' F16 [2, 128] are missing");
  Start("qwen3_moe_gptq");
  Tensor(kGate + "scales").shape = {128, 2};
  EXPECT_ERROR(Load(), kInvalid, kGate + "scales' is F16 [128, 2], but '", "needs F32, BF16 or F16 [2, 128]");
  Start("mixtral_awq");
  Remove("model.layers.0.self_attn.k_proj.qzeros");
  EXPECT_ERROR(Load(), kInvalid, "k_proj.qweight' is stored as I32 [256, 16], but its zero points '", "are missing");
  Start("gpt_oss_mxfp4");
  Tensor("model.layers.2.mlp.experts.down_proj_scales").shape = {8, 2, 64};
  EXPECT_ERROR(Load(), kInvalid, "down_proj_scales' is U8 [8, 2, 64], but '", "needs U8 [8, 64, 2]");
  Start("mixtral_fp8_tensor");
  Tensor("model.layers.0.self_attn.q_proj.weight_scale").shape = {1};
  EXPECT_EQ(absl::OkStatus(), Load());
  Tensor("model.layers.0.self_attn.q_proj.weight_scale").dtype = DType::kI32;
  EXPECT_ERROR(Load(), kInvalid, "weight_scale' is I32 [1], but '", "F8_E4M3 [96, 96] needs F32, BF16 or F16 [1, 1]");
}

TEST_F(Quantised, NothingIsStoredTwiceOrLeftOver) {
  Start("deepseek_v3_int4");
  FileTensor plain = Tensor(kGate + "weight_scale");
  plain.name = kGate + "weight";
  Add(plain);
  EXPECT_ERROR(Load(), kInvalid, "there are '" + kGate + "weight' and '" + kGate + "weight_packed': one must go");
  Start("qwen3_moe_int8_packed");
  FileTensor zeros = Tensor(kGate + "weight_scale");
  zeros.name = kGate + "weight_zero_point";
  Add(zeros);
  EXPECT_ERROR(Load(), kInvalid, kGate + "weight_zero_point' is one too many");
  Start("olmoe_int8");
  FileTensor head{"model.layers.0.mlp.gate.weight_scale", DType::kF32, {8, 1}, std::string(32, '\1')};
  Add(head);
  EXPECT_ERROR(Load(), kInvalid,
               "'model.layers.0.mlp.gate.weight_scale' is one too many: 'model.layers.0.mlp.gate.weight' is BF16");
}

// A module behind the last layer, as multi-token prediction has one: parameters are what its codes stand for.
TEST_F(Quantised, SkippedCodesCountAsParametersAndTheirScalesDoNot) {
  const auto add = [&](const std::string& name, DType dtype, std::vector<int64_t> shape) {
    int64_t bits = DTypeBits(dtype);
    for (const int64_t dim : shape) bits *= dim;
    Add({"model.layers.99.mlp." + name, dtype, std::move(shape), std::string(static_cast<size_t>(bits / 8), '\1')});
  };
  const auto skipped = [&] {
    EXPECT_EQ(absl::OkStatus(), Load());
    EXPECT_EQ(checked_.num_unknown, 0);
    return checked_.num_skipped_params;
  };
  Start("deepseek_v3_int4");
  const int64_t before = skipped();
  add("up_proj.weight_packed", DType::kI32, {6, 4});
  add("up_proj.weight_scale", DType::kBF16, {6, 1});
  add("up_proj.weight_shape", DType::kI64, {2});
  add("norm.weight", DType::kBF16, {5});
  EXPECT_EQ(skipped() - before, 6 * 4 * 8 + 5);
  Start("qwen3_moe_int8_packed");
  add("up_proj.weight_packed", DType::kI32, {6, 4});
  EXPECT_EQ(skipped(), 6 * 4 * 4);
  for (const auto& [family, codes] : {std::pair{"qwen3_moe_gptq", 8}, {"qwen2_moe_gptq8", 4}, {"mixtral_awq", 8}}) {
    Start(family);
    add("up_proj.qweight", DType::kI32, {4, 6});
    add("up_proj.scales", DType::kF16, {1, 6});
    add("up_proj.qzeros", DType::kI32, {1, 1});
    add("up_proj.g_idx", DType::kI32, {32});
    EXPECT_EQ(skipped(), 4 * 6 * codes) << family;
  }
  Start("gpt_oss_mxfp4");
  add("experts.down_proj_blocks", DType::kU8, {2, 3, 1, 16});
  add("experts.down_proj_scales", DType::kU8, {2, 3, 1});
  EXPECT_EQ(skipped(), 2 * 3 * 32);
  Start("mixtral_fp8_tensor");
  add("up_proj.weight", DType::kF8E4M3, {3, 7});
  add("up_proj.weight_scale", DType::kF32, {1});
  add("up_proj.input_scale", DType::kF32, {1});
  EXPECT_EQ(skipped(), 3 * 7);
}

TEST_F(Quantised, ConfigAndTensorsAgree) {
  Start("deepseek_v3_int4");
  quant()["ignore"].push_back("re:.*experts.3.gate.*");
  EXPECT_ERROR(Load(), kInvalid, "experts.3.gate_proj.weight_packed' is I32, but 'ignore' in the quantization_config",
               "says by 're:.*experts.3.gate.*' that it is not quantised");
  Start("mixtral_awq");
  quant()["modules_to_not_convert"] = {"gate", "model.layers.*.self_attn"};
  EXPECT_ERROR(Load(), kInvalid, "self_attn.q_proj.qweight' is I32, but 'modules_to_not_convert'",
               "'model.layers.*.self_attn'");
  Start("olmoe_int8");
  config_.erase("quantization_config");
  EXPECT_ERROR(Load(), kInvalid, "is stored as I8, but config.json has no quantization_config");
  Start("qwen3_moe_gptq");
  config_.erase("quantization_config");
  EXPECT_ERROR(Load(), kInvalid, "are missing: F16 [", "self_attn.q_proj.weight'");
  Start("qwen3_moe_gptq");
  quant()["bits"] = 8;
  EXPECT_ERROR(Load(), kInvalid, "qweight' is I32 [32, 256], but config.json asks for [64, 256]");
}

TEST_F(Quantised, GptqNamesModulesOnTheirOwn) {
  Start("qwen3_moe_gptq");
  quant()["dynamic"] = {{"-:.*mlp\\.gate$", json::object()}, {"lm_head", json::object()}};
  EXPECT_EQ(absl::OkStatus(), Load());
  quant()["dynamic"]["-:.*v_proj"] = json::object();
  EXPECT_ERROR(Load(), kInvalid,
               "v_proj.qweight' is I32, but 'dynamic' in the quantization_config says by 're:.*v_proj'");
  Start("qwen3_moe_gptq");
  quant()["dynamic"] = {{"+:.*down_proj", {{"bits", 8}}}};
  EXPECT_ERROR(Load(), kUnimplemented, "'quantization_config.dynamic' has settings for '+:.*down_proj'");
  Start("qwen3_moe_gptq");
  quant()["dynamic"] = {{"-:(", json::object()}};
  EXPECT_ERROR(Load(), kInvalid, "'quantization_config.dynamic' has the pattern 're:('");
}

TEST_F(Quantised, GroupsDivideTheInputs) {
  Start("qwen3_moe_gptq");
  quant()["group_size"] = 96;
  EXPECT_ERROR(Load(), kInvalid, "q_proj.qweight' has 256 inputs, which groups of 96 do not divide");
  Start("deepseek_v3_int4");
  quant()["config_groups"]["group_0"]["weights"]["group_size"] = 48;
  EXPECT_ERROR(Load(), kInvalid, "gate_proj.weight_packed' has 128 inputs, which groups of 48 do not divide");
}

TEST_F(Quantised, GroupsAreInOrder) {
  Start("qwen3_moe_gptq");
  const int32_t group = 1;
  std::memcpy(Tensor(kGate + "g_idx").data.data() + 4 * 17, &group, 4);
  EXPECT_ERROR(Load(), kUnimplemented, kGate + "g_idx' puts input 17 into group 1, not into 0", "act-order");
  Start("qwen3_moe_gptq");
  Remove(kGate + "g_idx");  // then they are in order
  EXPECT_EQ(absl::OkStatus(), Load());
  // Act-order is a way to find codes; what matters is where it has left the inputs.
  Start("qwen3_moe_gptq");
  quant()["desc_act"] = true;
  EXPECT_EQ(absl::OkStatus(), Load());
  Remove(kGate + "g_idx");
  EXPECT_ERROR(Load(), kInvalid, kGate + "qweight' is stored as I32 [32, 128], but its groups of inputs '",
               "g_idx' I32 [256] are missing");
  quant()["static_groups"] = true;
  EXPECT_EQ(absl::OkStatus(), Load());
}

TEST_F(Quantised, ScalesAreNumbersOtherThanZero) {
  const auto set = [&](const std::string& name, size_t element, uint32_t bits) {
    FileTensor& tensor = Tensor(name);
    const auto size = static_cast<size_t>(DTypeBytes(tensor.dtype));
    std::memcpy(tensor.data.data() + element * size, &bits, size);
  };
  Start("qwen3_moe_gptq");
  set(kGate + "scales", 130, 0x8000);
  EXPECT_ERROR(Load(), kDataLoss, kGate + "scales': element 130 (row 1, column 2)", "is -0 (0x8000)");
  Start("mixtral_fp8_tensor");
  set("model.layers.0.self_attn.q_proj.weight_scale", 0, 0);
  EXPECT_ERROR(Load(), kDataLoss, "q_proj.weight_scale': element 0", "is 0 (0x00000000)");
  Start("olmoe_int8");
  set("model.layers.1.self_attn.q_proj.weight_scale", 5, 0x7FC0);
  EXPECT_ERROR(Load(), kDataLoss, "q_proj.weight_scale': element 5 (row 5, column 0)", "is NaN (0x7fc0)");
  Start("gpt_oss_mxfp4");
  set("model.layers.0.mlp.experts.gate_up_proj_scales", 3, 0xFF);
  EXPECT_ERROR(Load(), kDataLoss, "gate_up_proj_scales': element 3", "is NaN (0xff)");
  Start("qwen2_moe_gptq8");
  set("model.layers.0.self_attn.q_proj.qzeros", 1, 0x7FFF7F7F);
  EXPECT_ERROR(Load(), kDataLoss, "q_proj.qzeros': element 1", "the zero point 256, beyond 8 bits");
}

TEST_F(Quantised, GpusTakeThem) {
  for (const char* family : {"qwen3_moe_gptq", "gpt_oss_mxfp4", "qwen3_moe_fp8_channel"}) {
    Start(family);
    ASSERT_OK(Load());
    EXPECT_EQ(absl::OkStatus(), CheckGpuFormats(checked_.plan)) << family;
  }
}

TEST_F(Quantised, UnknownSettingsAreOneLine) {
  const auto refused = [&](const char* family, const std::function<void(json&)>& edit) {
    Start(family);
    edit(quant());
    return Load();
  };
  EXPECT_ERROR(refused("qwen3_moe_gptq", [](json& q) { q["bits"] = 3; }), kUnimplemented,
               "'quantization_config.bits' is 3; only 4 and 8 are supported");
  EXPECT_ERROR(refused("qwen3_moe_gptq", [](json& q) { q["checkpoint_format"] = "marlin"; }), kUnimplemented,
               "'marlin'");
  EXPECT_ERROR(refused("qwen3_moe_gptq", [](json& q) { q["group_size"] = 0; }), kInvalid,
               "'quantization_config.group_size' is 0");
  EXPECT_ERROR(refused("mixtral_awq", [](json& q) { q["bits"] = 8; }), kUnimplemented, "is 8; only 4");
  EXPECT_ERROR(refused("mixtral_awq", [](json& q) { q["version"] = "gemv"; }), kUnimplemented, "'gemv'");
  EXPECT_ERROR(refused("mixtral_awq", [](json& q) { q["zero_point"] = false; }), kUnimplemented,
               "zero_point' is false");
  EXPECT_ERROR(refused("deepseek_v3_int4", [](json& q) { q["ignore"] = {"re:(unclosed"}; }), kInvalid,
               "'quantization_config.ignore' has the pattern 're:(unclosed'");
  // Exponentially many ways to fail: whether it matches is not known, which is not the same as "no".
  EXPECT_ERROR(refused("deepseek_v3_int4",
                       [](json& q) {
                         q["ignore"] = {"lm_head", "re:(?:[a-z0-9_.]+)+[!?]"};
                       }),
               kInvalid, "/config.json: quantization_config: whether the pattern 're:(?:[a-z0-9_.]+)+[!?]' matches",
               "'model.layers.0.", "match limit exceeded");
  EXPECT_ERROR(refused("deepseek_v3_int4",
                       [](json& q) {
                         q["transform_config"] = {{"config_groups", {{"R1", 1}}}};
                       }),
               kUnimplemented, "transform_config' rotates");
  EXPECT_ERROR(refused("deepseek_v3_int4", [](json& q) { q["format"] = "nvfp4-pack-quantized"; }), kUnimplemented,
               "'nvfp4-pack-quantized'");
  const auto weights = [](json& q) -> json& { return q["config_groups"]["group_0"]["weights"]; };
  EXPECT_ERROR(refused("qwen3_moe_fp8_channel", [&](json& q) { weights(q)["symmetric"] = false; }), kUnimplemented,
               "symmetric' is false");
  EXPECT_ERROR(refused("deepseek_v3_int4", [&](json& q) { weights(q)["actorder"] = "group"; }), kUnimplemented,
               "actorder'");
  EXPECT_ERROR(refused("olmoe_int8", [&](json& q) { weights(q)["num_bits"] = 4; }), kUnimplemented, "is 4 with format");
  EXPECT_ERROR(refused("olmoe_int8", [&](json& q) { weights(q)["type"] = "float"; }), kUnimplemented, "does not store");
  EXPECT_ERROR(refused("deepseek_v3_int4",
                       [&](json& q) {
                         q["config_groups"]["group_1"] = q["config_groups"]["group_0"];
                         q["config_groups"]["group_1"]["weights"]["group_size"] = 64;
                       }),
               kUnimplemented, "store weights in several ways");
}

}  // namespace
}  // namespace tokenferry::testing

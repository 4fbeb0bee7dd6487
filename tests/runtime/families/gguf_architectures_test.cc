// Every architecture of GGUF files: a family of tests/data/families as its converter would write it, against what
// transformers computes.
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "runtime/families/families.h"
#include "runtime/model/generation_config.h"
#include "runtime/model/tensor_plan.h"
#include "tests/runtime/families/gguf_golden.h"
#include "tests/support/gguf_writer.h"
#include "tests/support/status_matchers.h"

namespace tokenferry {
namespace {

using nlohmann::json;
using testing::GgufWriter;

// A family of tests/data/families, and what its converter writes: keys behind the architecture's name, by those of
// config.json or as they are.
struct Conversion {
  std::string family, architecture;
  std::map<std::string, std::string> keys;
  json values = json::object();
  bool permutes = false;     // rows of q and k, from halves of a head to pairs
  bool splits_kv_b = false;  // into keys, transposed, and values
};

const std::map<std::string, std::string> kCommonKeys = {{"block_count", "num_hidden_layers"},
                                                        {"embedding_length", "hidden_size"},
                                                        {"context_length", "max_position_embeddings"},
                                                        {"feed_forward_length", "intermediate_size"},
                                                        {"expert_used_count", "num_experts_per_tok"},
                                                        {"attention.head_count", "num_attention_heads"},
                                                        {"attention.head_count_kv", "num_key_value_heads"},
                                                        {"attention.layer_norm_rms_epsilon", "rms_norm_eps"},
                                                        {"rope.freq_base", "rope_theta"}};

const std::map<Role, std::string> kNames = {
    {Role::kEmbedTokens, "token_embd.weight"},
    {Role::kFinalNorm, "output_norm.weight"},
    {Role::kLmHead, "output.weight"},
    {Role::kInputNorm, "attn_norm.weight"},
    {Role::kPostNorm, "ffn_norm.weight"},
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
    {Role::kExpertDownBias, "ffn_down_exps.bias"},
};

// The values of a role, widened, out of the stored tensor that it is a part of.
std::vector<float> ValuesOf(const Checkpoint& checkpoint, const TensorSpec& spec) {
  const StoredTensor& stored = spec.stored[0];
  const StoredPart& part = stored.part;
  const auto* tensor = checkpoint.Find(stored.name);
  const int64_t element = DTypeBytes(tensor->info->dtype);
  const bool is_whole = part.kind == StoredPart::Kind::kWhole;
  const int64_t count = is_whole ? spec.num_elements() : part.size;
  std::vector<uint8_t> bytes(static_cast<size_t>(count * element));
  EXPECT_TRUE(checkpoint.Read(*tensor, is_whole ? 0 : part.begin * element, absl::MakeSpan(bytes)).ok());
  std::vector<float> all(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i) {
    all[i] = element == 4 ? reinterpret_cast<const float*>(bytes.data())[i]
                          : ToFloat(reinterpret_cast<const BF16*>(bytes.data())[i]);
  }
  if (part.kind != StoredPart::Kind::kColumns) return all;
  std::vector<float> picked;
  for (int64_t row = 0; row < spec.shape[0]; ++row) {
    for (int64_t i = 0; i < part.size / part.cols; ++i) {
      picked.push_back(all[i * part.cols + part.first + row * part.step]);
    }
  }
  return picked;
}

// Row 2i of a head is row i of its first half, row 2i + 1 that of its second.
std::vector<float> Permuted(const std::vector<float>& rows, int64_t num_rows, int64_t head_dim) {
  const int64_t cols = static_cast<int64_t>(rows.size()) / num_rows;
  std::vector<float> out(rows.size());
  for (int64_t row = 0; row < num_rows; ++row) {
    const int64_t head = row / head_dim, place = row % head_dim;
    const int64_t from = head * head_dim + place % 2 * (head_dim / 2) + place / 2;
    std::copy_n(rows.begin() + from * cols, cols, out.begin() + row * cols);
  }
  return out;
}

void AddSplitKvB(const std::string& place, const std::vector<float>& kv_b, const AttentionSpec& a, GgufWriter& out) {
  const int64_t rank = a.kv_lora_rank, rows = a.nope_dim + a.value_dim;
  std::vector<float> keys, values;
  for (int64_t h = 0; h < a.num_heads; ++h) {
    const float* head = &kv_b[static_cast<size_t>(h * rows * rank)];
    for (int64_t i = 0; i < rank; ++i) {
      for (int64_t n = 0; n < a.nope_dim; ++n) keys.push_back(head[n * rank + i]);
    }
    values.insert(values.end(), head + a.nope_dim * rank, head + rows * rank);
  }
  const auto add = [&](const std::string& name, int64_t cols, int64_t num_rows, const std::vector<float>& v) {
    out.Tensor(place + name, 0,
               {static_cast<uint64_t>(cols), static_cast<uint64_t>(num_rows), static_cast<uint64_t>(a.num_heads)},
               {reinterpret_cast<const char*>(v.data()), v.size() * sizeof(float)});
  };
  add(".attn_k_b.weight", a.nope_dim, rank, keys);
  add(".attn_v_b.weight", rank, a.value_dim, values);
}

// As F32, experts stacked.
void AddTensors(const Conversion& conversion, const ModelSpec& model, const Checkpoint& checkpoint, GgufWriter& out) {
  std::map<std::string, std::pair<std::vector<uint64_t>, std::vector<float>>> tensors;
  const auto plan = PlanTensors(model);
  ASSERT_OK(plan);
  for (const TensorSpec& spec : plan->tensors) {
    const bool has_other_name =
        spec.role == Role::kPostNorm && (conversion.architecture == "gpt-oss" || conversion.architecture == "glm4moe");
    const std::string name = has_other_name ? "post_attention_norm.weight" : kNames.at(spec.role);
    auto& [dims, values] = tensors[spec.layer < 0 ? name : absl::StrCat("blk.", spec.layer, ".", name)];
    std::vector<float> own = ValuesOf(checkpoint, spec);
    if (conversion.permutes && (spec.role == Role::kQ || spec.role == Role::kK)) {
      own = Permuted(own, spec.rows(), model.layers[0].attention.head_dim);
    }
    values.insert(values.end(), own.begin(), own.end());
    dims.assign(spec.shape.rbegin(), spec.shape.rend());
    if (spec.expert >= 0) dims.push_back(static_cast<uint64_t>(spec.expert) + 1);
  }
  for (const auto& [name, tensor] : tensors) {
    const auto& [dims, values] = tensor;
    if (conversion.splits_kv_b && name.ends_with(".attn_kv_b.weight")) {
      AddSplitKvB(name.substr(0, name.rfind(".attn")), values, model.layers[0].attention, out);
      continue;
    }
    out.Tensor(name, 0, dims, {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float)});
  }
}

void AddKey(const std::string& key, const json& value, GgufWriter& out) {
  if (value.is_string()) out.Key(key, value.get<std::string>().c_str());
  if (value.is_boolean()) out.Key(key, value.get<bool>());
  if (value.is_number_float() || key.ends_with(".freq_base")) {
    out.Key(key, value.get<float>());
  } else if (value.is_number_integer()) {
    out.Key(key, value.get<uint32_t>());
  }
}

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

// Writes the family's checkpoint as its converter would.
void WriteConverted(const Conversion& conversion, const std::string& path) {
  const std::string dir = FamilyDir(conversion.family);
  const json config = json::parse(testing::ReadFile(dir + "/config.json"));
  const auto model = LoadModelSpec(dir);
  ASSERT_OK(model);
  const auto checkpoint = Checkpoint::Open(dir);
  ASSERT_OK(checkpoint);
  json metadata = conversion.values;
  for (const auto* keys : {&kCommonKeys, &conversion.keys}) {
    for (const auto& [key, of_config] : *keys) {
      if (config.contains(of_config)) metadata.emplace(key, config[of_config]);
    }
  }
  GgufWriter out;
  out.Key("general.architecture", conversion.architecture.c_str());
  for (const auto& [key, value] : metadata.items()) AddKey(conversion.architecture + "." + key, value, out);
  for (const std::string token : {"bos", "eos"}) {
    AddKey("tokenizer.ggml." + token + "_token_id", config.value(token + "_token_id", json()), out);
  }
  AddTensors(conversion, *model, *checkpoint, out);
  testing::WriteFile(path, out.Bytes());
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

// Rows of q and k are permuted in Mixtral's file; all else is as on the hub, but for names.
TEST(GgufGolden, MixtralIsTheModelThatWasConverted) {
  testing::TempDir temp;
  const std::string path = temp.path() + "/m.gguf";
  WriteConverted({.family = "mixtral",
                  .architecture = "llama",
                  .keys = {{"expert_count", "num_local_experts"}},
                  .values = {{"rope.dimension_count", 16}},
                  .permutes = true},
                 path);
  const auto got = LoadModelSpec(path), hub = LoadModelSpec(FamilyDir("mixtral"));
  ASSERT_OK(got);
  ASSERT_OK(hub);
  ModelSpec want = *hub;
  want.dtype = DType::kF32;
  want.layer_prefix = "blk.";
  want.fused = FusedExperts::kStacked;
  want.names = got->names;
  for (LayerSpec& layer : want.layers) layer.attention.rope_layout = RopeLayout::kInterleaved;
  EXPECT_TRUE(*got == want);
  const auto generation = LoadGenerationConfig(path, *got);
  ASSERT_OK(generation);
  EXPECT_EQ(generation->eos_token_ids, hub->eos_token_ids);
  ExpectResultsOf("mixtral", path);
}

}  // namespace
}  // namespace tokenferry

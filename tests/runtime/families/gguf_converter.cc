#include "tests/runtime/families/gguf_converter.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/formats/scalar.h"
#include "runtime/families/families.h"
#include "runtime/model/tensor_plan.h"
#include "tests/runtime/families/gguf_golden.h"
#include "tests/support/gguf_writer.h"
#include "tests/support/status_matchers.h"

namespace tokenferry {
namespace {

using nlohmann::json;
using testing::GgufWriter;

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
    {Role::kFinalNormBias, "output_norm.bias"},
    {Role::kLmHead, "output.weight"},
    {Role::kLmHeadBias, "output.bias"},
    {Role::kInputNorm, "attn_norm.weight"},
    {Role::kInputNormBias, "attn_norm.bias"},
    {Role::kPostNorm, "ffn_norm.weight"},
    {Role::kPostNormBias, "ffn_norm.bias"},
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

float ValueOf(DType dtype, const uint8_t* bytes, int64_t i) {
  if (dtype == DType::kF32) return reinterpret_cast<const float*>(bytes)[i];
  if (dtype == DType::kF16) return ToFloat(reinterpret_cast<const FP16*>(bytes)[i]);
  return ToFloat(reinterpret_cast<const BF16*>(bytes)[i]);
}

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
    all[i] = ValueOf(tensor->info->dtype, bytes.data(), i);
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

}  // namespace

void WriteConverted(const Conversion& conversion, const std::string& path) {
  const std::string dir = FamilyDir(conversion.family);
  json config = json::parse(testing::ReadFile(dir + "/config.json"));
  if (config.contains("text_config")) config = json(config["text_config"]);
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
  for (const auto& [name, factors] : conversion.rope_factors) {
    out.Tensor(name, 0, {factors.size()},
               {reinterpret_cast<const char*>(factors.data()), factors.size() * sizeof(float)});
  }
  testing::WriteFile(path, out.Bytes());
}

}  // namespace tokenferry

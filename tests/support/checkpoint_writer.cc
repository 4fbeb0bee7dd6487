#include "tests/support/checkpoint_writer.h"

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <random>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "core/check.h"
#include "core/formats/scalar.h"
#include "runtime/families/families.h"
#include "runtime/model/tensor_plan.h"

namespace tokenferry::testing {
namespace {

// Uniform in (-1, 1); the standard's distributions differ between libraries, its engines do not.
class Random {
 public:
  explicit Random(uint64_t seed) : engine_(seed) {}
  float Next() { return static_cast<float>(static_cast<int64_t>(engine_() >> 40) - (1 << 23)) / (1 << 23); }

 private:
  std::mt19937_64 engine_;
};

template <class T>
void Append(std::string& out, T value) {
  out.append(reinterpret_cast<const char*>(&value), sizeof(value));
}

void AppendAs(std::string& out, DType dtype, float value) {
  if (dtype == DType::kF32) return Append(out, value);
  if (dtype == DType::kBF16) return Append(out, ToBF16(value).bits);
  TF_CHECK(dtype == DType::kF8E4M3);
  Append(out, ToF8E4M3(value).bits);
}

FileTensor RandomTensor(const TensorSpec& spec, Random& random) {
  FileTensor tensor{spec.name(), spec.dtype(), spec.shape, {}};
  const bool is_norm = spec.part() == ModelPart::kNorm;
  const bool is_bias = spec.role == Role::kChoiceBias;
  // Uniform (-1, 1) has variance 1/3; the sum over `cols` inputs shall have variance 1.
  const float scale = is_norm || is_bias ? 0.1f : std::sqrt(3.0f / static_cast<float>(spec.shape.back()));
  // Quantised values fill the FP8 range; their scales bring them back.
  const float stored = spec.stored.size() > 1 ? 256.0f : scale;
  for (int64_t i = 0; i < spec.num_elements(); ++i) {
    AppendAs(tensor.data, spec.dtype(), (is_norm ? 1.0f : 0.0f) + stored * random.Next());
  }
  return tensor;
}

FileTensor RandomScales(const TensorSpec& spec, Random& random) {
  FileTensor tensor{spec.stored[1].name, DType::kF32, spec.stored[1].shape, {}};
  const float scale = std::sqrt(3.0f / static_cast<float>(spec.shape.back())) / 256.0f;
  for (int64_t i = 0; i < tensor.shape[0] * tensor.shape[1]; ++i) {
    Append(tensor.data, scale * (1.0f + 0.3f * random.Next()));
  }
  return tensor;
}

void AddMtpModule(const DeepSeekConfig& config, Random& random, std::vector<FileTensor>& tensors) {
  const std::string prefix = absl::StrCat("model.layers.", config.num_hidden_layers, ".");
  for (const char* name : {"enorm.weight", "hnorm.weight", "shared_head.norm.weight"}) {
    const TensorSpec spec{.role = Role::kInputNorm,
                          .shape = {config.hidden_size},
                          .stored = {{.name = prefix + name, .dtype = config.dtype}}};
    tensors.push_back(RandomTensor(spec, random));
  }
  const TensorSpec spec{.role = Role::kRouter,
                        .shape = {config.hidden_size, 2 * config.hidden_size},
                        .stored = {{.name = prefix + "eh_proj.weight", .dtype = config.dtype}}};
  tensors.push_back(RandomTensor(spec, random));
}

nlohmann::json RopeJson(const RopeConfig& rope) {
  if (rope.scaling == RopeScaling::kNone) return nullptr;
  return {{"type", "yarn"},
          {"factor", rope.factor},
          {"original_max_position_embeddings", rope.original_max_position},
          {"beta_fast", rope.beta_fast},
          {"beta_slow", rope.beta_slow},
          {"mscale", rope.mscale},
          {"mscale_all_dim", rope.mscale_all_dim}};
}

}  // namespace

std::string SafetensorsBytes(absl::string_view header, absl::string_view data) {
  std::string bytes;
  for (int i = 0; i < 8; ++i) bytes.push_back(static_cast<char>((uint64_t{header.size()} >> (8 * i)) & 0xFF));
  return absl::StrCat(bytes, header, data);
}

std::string SafetensorsBytes(const std::vector<FileTensor>& tensors) {
  nlohmann::json header = {{"__metadata__", {{"format", "pt"}}}};
  std::string data;
  for (const FileTensor& t : tensors) {
    const size_t begin = data.size();
    data += t.data;
    header[t.name] = {
        {"dtype", std::string(DTypeName(t.dtype))}, {"shape", t.shape}, {"data_offsets", {begin, data.size()}}};
  }
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');
  return SafetensorsBytes(text, data);
}

void WriteFile(const std::string& path, absl::string_view bytes) {
  std::ofstream out(path, std::ios::binary);
  out.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  out.close();
  if (!out) internal::CheckFailed(__FILE__, __LINE__, "WriteFile", path);
}

std::string ReadFile(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) internal::CheckFailed(__FILE__, __LINE__, "ReadFile", path);
  return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

TempDir::TempDir() {
  std::string name = (std::filesystem::temp_directory_path() / "tokenferry_XXXXXX").string();
  if (mkdtemp(name.data()) == nullptr) internal::CheckFailed(__FILE__, __LINE__, "mkdtemp", name);
  path_ = name;
}

TempDir::~TempDir() {
  std::error_code ignored;  // a leftover directory must not fail a test
  std::filesystem::remove_all(path_, ignored);
}

DeepSeekConfig TinyConfig() {
  DeepSeekConfig c;
  c.model_type = "deepseek_v3";
  c.vocab_size = 37;
  c.hidden_size = 24;
  c.num_hidden_layers = 3;
  c.max_position_embeddings = 64;
  c.num_attention_heads = 2;
  c.q_lora_rank = 10;
  c.kv_lora_rank = 14;
  c.qk_nope_head_dim = 6;
  c.qk_rope_head_dim = 4;
  c.v_head_dim = 5;
  c.rope = {.theta = 10000, .dim = 4, .max_position = 64};
  c.intermediate_size = 40;
  c.moe_intermediate_size = 20;
  c.first_k_dense_replace = 1;
  c.n_routed_experts = 8;
  c.n_shared_experts = 1;
  c.num_experts_per_tok = 3;
  c.n_group = 4;
  c.topk_group = 2;
  c.routed_scaling_factor = 2.5;
  c.dtype = DType::kF32;
  c.bos_token_id = 0;
  c.eos_token_ids = {1};
  return c;
}

std::string ConfigJson(const DeepSeekConfig& c) {
  nlohmann::json json = {{"architectures", {"DeepseekV3ForCausalLM"}},
                         {"model_type", c.model_type},
                         {"hidden_act", "silu"},
                         {"scoring_func", "sigmoid"},
                         {"topk_method", "noaux_tc"},
                         {"vocab_size", c.vocab_size},
                         {"hidden_size", c.hidden_size},
                         {"num_hidden_layers", c.num_hidden_layers},
                         {"num_nextn_predict_layers", c.num_nextn_predict_layers},
                         {"max_position_embeddings", c.max_position_embeddings},
                         {"rms_norm_eps", c.rms_norm_eps},
                         {"tie_word_embeddings", c.tie_word_embeddings},
                         {"torch_dtype", c.dtype == DType::kF32 ? "float32" : "bfloat16"},
                         {"num_attention_heads", c.num_attention_heads},
                         {"q_lora_rank", c.q_lora_rank > 0 ? nlohmann::json(c.q_lora_rank) : nlohmann::json()},
                         {"kv_lora_rank", c.kv_lora_rank},
                         {"qk_nope_head_dim", c.qk_nope_head_dim},
                         {"qk_rope_head_dim", c.qk_rope_head_dim},
                         {"v_head_dim", c.v_head_dim},
                         {"rope_theta", c.rope.theta},
                         {"rope_scaling", RopeJson(c.rope)},
                         {"intermediate_size", c.intermediate_size},
                         {"moe_intermediate_size", c.moe_intermediate_size},
                         {"first_k_dense_replace", c.first_k_dense_replace},
                         {"moe_layer_freq", c.moe_layer_freq},
                         {"n_routed_experts", c.n_routed_experts},
                         {"n_shared_experts", c.n_shared_experts},
                         {"num_experts_per_tok", c.num_experts_per_tok},
                         {"n_group", c.n_group},
                         {"topk_group", c.topk_group},
                         {"norm_topk_prob", c.norm_topk_prob},
                         {"routed_scaling_factor", c.routed_scaling_factor},
                         {"eos_token_id", c.eos_token_ids}};
  if (c.bos_token_id >= 0) json["bos_token_id"] = c.bos_token_id;
  if (c.fp8_block > 0) {
    json["quantization_config"] = {{"quant_method", "fp8"},
                                   {"fmt", "e4m3"},
                                   {"activation_scheme", "dynamic"},
                                   {"weight_block_size", {c.fp8_block, c.fp8_block}}};
  }
  return json.dump(2);
}

ModelSpec SpecOf(const DeepSeekConfig& config) {
  const auto spec = ParseModelSpec(ConfigJson(config), "config.json");
  if (!spec.ok()) internal::CheckFailed(__FILE__, __LINE__, "ParseModelSpec", std::string(spec.status().message()));
  return *spec;
}

std::vector<FileTensor> RandomTensors(const RandomCheckpoint& spec) {
  Random random(spec.seed);
  std::vector<FileTensor> tensors;
  const auto plan = PlanTensors(SpecOf(spec.config));
  if (!plan.ok()) internal::CheckFailed(__FILE__, __LINE__, "PlanTensors", std::string(plan.status().message()));
  for (const TensorSpec& t : plan->tensors) {
    tensors.push_back(RandomTensor(t, random));
    if (t.stored.size() > 1) tensors.push_back(RandomScales(t, random));
  }
  if (spec.with_mtp) AddMtpModule(spec.config, random, tensors);
  return tensors;
}

void WriteCheckpoint(const std::string& dir, const RandomCheckpoint& spec, const std::vector<FileTensor>& tensors) {
  WriteFile(dir + "/config.json", ConfigJson(spec.config));
  if (spec.num_shards == 1) {
    WriteFile(absl::StrCat(dir, "/", kSingleCheckpointFile), SafetensorsBytes(tensors));
    return;
  }
  nlohmann::json weight_map = nlohmann::json::object();
  const size_t num_shards = static_cast<size_t>(spec.num_shards);
  for (size_t s = 0; s < num_shards; ++s) {
    const size_t begin = tensors.size() * s / num_shards, end = tensors.size() * (s + 1) / num_shards;
    const std::vector<FileTensor> part(tensors.begin() + static_cast<std::ptrdiff_t>(begin),
                                       tensors.begin() + static_cast<std::ptrdiff_t>(end));
    const std::string name = absl::StrFormat("model-%05d-of-%05d.safetensors", s + 1, num_shards);
    WriteFile(absl::StrCat(dir, "/", name), SafetensorsBytes(part));
    for (const FileTensor& t : part) weight_map[t.name] = name;
  }
  WriteFile(absl::StrCat(dir, "/", kCheckpointIndexFile), nlohmann::json{{"weight_map", weight_map}}.dump(1));
}

void WriteRandomCheckpoint(const std::string& dir, const RandomCheckpoint& spec) {
  WriteCheckpoint(dir, spec, RandomTensors(spec));
}

FileTensor& FindTensor(std::vector<FileTensor>& tensors, absl::string_view name) {
  for (FileTensor& t : tensors) {
    if (t.name == name) return t;
  }
  internal::CheckFailed(__FILE__, __LINE__, "FindTensor", std::string(name));
}

}  // namespace tokenferry::testing

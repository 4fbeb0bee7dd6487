// Small random checkpoints of the DeepSeek-V3 architecture, and ways to damage them, for tests.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "core/formats/dtype.h"
#include "runtime/attention/rope.h"
#include "runtime/model/model_spec.h"

namespace tokenferry::testing {

struct FileTensor {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;
  std::string data;
};

// The bytes of a safetensors file around `header` as it stands: length, header, data.
std::string SafetensorsBytes(absl::string_view header, absl::string_view data);
// A well-formed file with these tensors, in this order.
std::string SafetensorsBytes(const std::vector<FileTensor>& tensors);

// Aborts the test program when the file system refuses.
void WriteFile(const std::string& path, absl::string_view bytes);
std::string ReadFile(const std::string& path);

// A new empty directory, removed with everything in it on destruction.
class TempDir {
 public:
  TempDir();
  ~TempDir();
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

// config.json of a model of the DeepSeek-V3 architecture, by its own names.
struct DeepSeekConfig {
  std::string model_type = "deepseek_v3";
  int64_t vocab_size = 0, hidden_size = 0, num_hidden_layers = 0, num_nextn_predict_layers = 0;
  int64_t max_position_embeddings = 0;
  double rms_norm_eps = 1e-6;
  bool tie_word_embeddings = false;
  DType dtype = DType::kBF16;
  int64_t num_attention_heads = 0, q_lora_rank = 0, kv_lora_rank = 0;
  int64_t qk_nope_head_dim = 0, qk_rope_head_dim = 0, v_head_dim = 0;
  RopeConfig rope;
  int64_t intermediate_size = 0, moe_intermediate_size = 0, first_k_dense_replace = 0, moe_layer_freq = 1;
  int64_t n_routed_experts = 0, n_shared_experts = 0, num_experts_per_tok = 0, n_group = 1, topk_group = 1;
  bool norm_topk_prob = true;
  double routed_scaling_factor = 1;
  int32_t fp8_block = 0;
  int32_t bos_token_id = -1;
  std::vector<int32_t> eos_token_ids;
};

struct RandomCheckpoint {
  DeepSeekConfig config;  // shapes; config.dtype for what is not FP8, config.fp8_block > 0 for FP8 projections
  uint64_t seed = 1;
  int num_shards = 1;     // 1: model.safetensors; else shards with an index
  bool with_mtp = false;  // adds a few tensors of a multi-token-prediction module
};

// A valid config of a few hidden units: 3 layers (1 dense), 8 experts in 4 groups, odd sizes, no quantisation.
DeepSeekConfig TinyConfig();

std::string ConfigJson(const DeepSeekConfig& config);
// What ParseModelSpec makes of that; aborts the test program when it refuses.
ModelSpec SpecOf(const DeepSeekConfig& config);

// All tensors of the model, weights uniform with a variance that keeps activations near 1 (norms near 1, the router's
// bias near 0). The same seed gives the same bytes on every machine.
std::vector<FileTensor> RandomTensors(const RandomCheckpoint& spec);

// Writes config.json and `tensors` into `dir`, in spec.num_shards files (consecutive tensors together, a scale possibly
// in another file than its weight).
void WriteCheckpoint(const std::string& dir, const RandomCheckpoint& spec, const std::vector<FileTensor>& tensors);
void WriteRandomCheckpoint(const std::string& dir, const RandomCheckpoint& spec);

// The tensor of that name; aborts when there is none.
FileTensor& FindTensor(std::vector<FileTensor>& tensors, absl::string_view name);

}  // namespace tokenferry::testing

// config.json and generation_config.json of a DeepSeek-V3-architecture model (DeepSeek-V3, R1, V3.1; Kimi-K2).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "core/formats/dtype.h"
#include "core/status.h"
#include "runtime/attention/rope.h"

namespace tokenferry {

// A value, with config.json's own names. What ParseModelConfig returns is consistent: every product of two sizes fits
// into int64. Attention is multi-head latent attention; experts are chosen by sigmoid scores plus a bias within groups
// ("noaux_tc"); activations are silu; there are no biases.
struct ModelConfig {
  std::string model_type;  // "deepseek_v3" or "kimi_k2"

  int64_t vocab_size = 0;
  int64_t hidden_size = 0;
  int64_t num_hidden_layers = 0;         // without multi-token-prediction modules
  int64_t num_nextn_predict_layers = 0;  // those modules; model.layers.{num_hidden_layers + ..} in the files
  int64_t max_position_embeddings = 0;
  double rms_norm_eps = 1e-6;        // of the layers' norms; the norms inside attention always use 1e-6
  bool tie_word_embeddings = false;  // lm_head is embed_tokens
  DType dtype = DType::kBF16;        // what is not quantised

  // Attention.
  int64_t num_attention_heads = 0;
  int64_t q_lora_rank = 0;  // 0: one q_proj instead of q_a_proj and q_b_proj
  int64_t kv_lora_rank = 0;
  int64_t qk_nope_head_dim = 0;
  int64_t qk_rope_head_dim = 0;
  int64_t v_head_dim = 0;
  RopeConfig rope;

  // Feed-forward networks.
  int64_t intermediate_size = 0;      // of a dense layer
  int64_t moe_intermediate_size = 0;  // of one expert
  int64_t first_k_dense_replace = 0;  // the first layers are dense
  int64_t moe_layer_freq = 1;
  int64_t n_routed_experts = 0;
  int64_t n_shared_experts = 0;  // one network of n_shared_experts * moe_intermediate_size; 0: none
  int64_t num_experts_per_tok = 0;
  int64_t n_group = 1;
  int64_t topk_group = 1;
  bool norm_topk_prob = true;
  double routed_scaling_factor = 1;

  // Blocks of FP8 weights, [fp8_block, fp8_block]; 0: the checkpoint is not quantised.
  int32_t fp8_block = 0;

  int32_t bos_token_id = -1;           // -1: none
  std::vector<int32_t> eos_token_ids;  // any of them ends a text; may be empty

  bool IsMoeLayer(int64_t layer_idx) const {
    return layer_idx >= first_k_dense_replace && layer_idx % moe_layer_freq == 0;
  }
  int64_t num_moe_layers() const {
    int64_t count = 0;
    for (int64_t l = 0; l < num_hidden_layers; ++l) count += IsMoeLayer(l);
    return count;
  }
  int64_t qk_head_dim() const { return qk_nope_head_dim + qk_rope_head_dim; }
};

// `text` is the contents of a config.json; `name` stands for the file in errors. InvalidArgument names the key, its
// value and what is allowed. Unimplemented names an architecture, activation, router, rotary scaling or quantisation
// that is not known. Keys that do not change the model's function are ignored.
absl::StatusOr<ModelConfig> ParseModelConfig(absl::string_view text, absl::string_view name);
absl::StatusOr<ModelConfig> LoadModelConfig(const std::string& model_dir);

// What a text generation starts from when the request does not say otherwise.
struct GenerationConfig {
  std::vector<int32_t> eos_token_ids;  // generation_config.json's, or else config.json's
  std::optional<double> temperature;   // >= 0
  std::optional<double> top_p;         // [0, 1]; 0 is said by some files and means the likeliest token alone
};

absl::StatusOr<GenerationConfig> ParseGenerationConfig(absl::string_view text, absl::string_view name,
                                                       const ModelConfig& model);
// Without a generation_config.json: config.json's end tokens and nothing else.
absl::StatusOr<GenerationConfig> LoadGenerationConfig(const std::string& model_dir, const ModelConfig& model);

}  // namespace tokenferry

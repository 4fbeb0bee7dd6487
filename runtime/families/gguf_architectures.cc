#include "runtime/families/gguf_architectures.h"

#include "absl/strings/str_cat.h"
#include "runtime/families/family.h"

namespace tokenferry {
namespace {

using nlohmann::json;

// Files from before there were such keys mean no groups, as ggml does.
void DefaultToOneGroup(json& config) {
  if (!config.contains("n_group")) config["n_group"] = config["topk_group"] = 1;
}

// deepseek2: V2 and V3 are told apart by what scores experts.
void ReadDeepSeek(ConfigReader& in, const Checkpoint& /*checkpoint*/, json& config) {
  const auto key = [&](absl::string_view name) { return GgufKeyName(in, name); };
  const int64_t rope_dim = in.Int(key("rope.dimension_count"), 2, kMaxHeadDim);
  // Files for attention in its absorbed form say the sizes of heads beside those of the latents.
  const auto of_head = [&](absl::string_view name) {
    const std::string own = key(absl::StrCat(name, "_mla"));
    return in.Has(own) ? own : key(name);
  };
  const int64_t key_dim = in.Int(of_head("attention.key_length"), rope_dim + 1, 2 * kMaxHeadDim);
  config["qk_rope_head_dim"] = rope_dim;
  config["qk_nope_head_dim"] = key_dim - rope_dim;
  config["v_head_dim"] = in.Int(of_head("attention.value_length"), 1, kMaxHeadDim);
  config["norm_topk_prob"] = in.Bool(key("expert_weights_norm"), false);
  if (!config.contains("routed_scaling_factor")) config["routed_scaling_factor"] = 1.0;
  DefaultToOneGroup(config);
  const int64_t scoring = in.Int(key("expert_gating_func"), 0, 100, 1);
  if (scoring != 1 && scoring != 2) {
    in.FailUnsupported(key("expert_gating_func"),
                       absl::StrCat("is ", scoring, "; only 1 (softmax) and 2 (sigmoid) are supported"));
  }
  if (scoring == 2) config["model_type"] = "deepseek_v3";
  if (scoring == 1 && config["n_group"] != 1) config["topk_method"] = "group_limited_greedy";
}

// Of llama's models only those with experts.
void ReadLlama(ConfigReader& in, const Checkpoint& /*checkpoint*/, json& /*config*/) {
  const std::string key = GgufKeyName(in, "expert_count");
  if (in.Int(key, 0, kMaxExperts, 0) == 0) {
    in.FailUnsupported(key, "is missing or 0: a model without experts is not supported");
  }
}

// Chunks, temperatures and layers without rotation are those of the two models that there are, whose files do not say
// more; the larger of them has no norms of queries and keys.
void ReadLlama4(ConfigReader& in, const Checkpoint& /*checkpoint*/, json& config) {
  constexpr int64_t kChunk = 8192, kExpertsWithoutNorms = 128;
  config["intermediate_size"] = in.Int(GgufKeyName(in, "expert_feed_forward_length"), 1, kMaxSize);
  config["interleave_moe_layer_step"] = in.Int(GgufKeyName(in, "interleave_moe_layer_step"), 1, kMaxLayers);
  config["use_qk_norm"] = in.Int(GgufKeyName(in, "expert_count"), 1, kMaxExperts) != kExpertsWithoutNorms;
  const std::string key = GgufKeyName(in, "attention.sliding_window");
  const int64_t chunk = in.Int(key, 0, kMaxSize, kChunk);
  if (in.ok() && chunk != kChunk) {
    in.FailUnsupported(key, absl::StrCat("is ", chunk, "; only chunks of ", kChunk, " are supported"));
  }
}

void ReadQwen3(ConfigReader& /*in*/, const Checkpoint& /*checkpoint*/, json& config) {
  config["norm_topk_prob"] = true;
}

// The layers of multi-token prediction are counted; biases and norms of queries and keys are there or not.
void ReadGlm4(ConfigReader& in, const Checkpoint& checkpoint, json& config) {
  const auto key = [&](absl::string_view name) { return GgufKeyName(in, name); };
  const int64_t num_extra = in.Int(key("nextn_predict_layers"), 0, kMaxLayers, 0);
  config["num_hidden_layers"] = in.Int(key("block_count"), num_extra + 1, kMaxLayers) - num_extra;
  config["norm_topk_prob"] = in.Bool(key("expert_weights_norm"), false);
  const int64_t head_dim = in.Int(key("attention.key_length"), 2, kMaxHeadDim);
  const int64_t rope_dim = in.Int(key("rope.dimension_count"), 2, kMaxHeadDim);
  config["partial_rotary_factor"] = static_cast<double>(rope_dim) / static_cast<double>(head_dim);
  config["attention_bias"] = checkpoint.Find("blk.0.attn_q.bias") != nullptr;
  config["use_qk_norm"] = checkpoint.Find("blk.0.attn_q_norm.weight") != nullptr;
  DefaultToOneGroup(config);
}

// Biases are there or not; a window of 0 is none. How wide the masks of its router are (router_jitter_noise) files do
// not say: as published.
void ReadPhi(ConfigReader& in, const Checkpoint& checkpoint, json& config) {
  config["attention_bias"] = checkpoint.Find("blk.0.attn_q.bias") != nullptr;
  config["lm_head_bias"] = checkpoint.Find("output.bias") != nullptr;
  const int64_t window = in.Int(GgufKeyName(in, "attention.sliding_window"), 0, kMaxSize, 0);
  if (window > 0) config["sliding_window"] = window;
}

std::vector<GgufArchitecture> AllArchitectures() {
  return {
      {.name = "llama",  // its converter turns halves of heads to pairs
       .model_type = "mixtral",
       .keys = {{"expert_count", "num_local_experts"}, {"attention.key_length", "head_dim"}},
       .read = ReadLlama,
       .rope_layout = RopeLayout::kInterleaved},
      {.name = "llama4",
       .model_type = "llama4_text",
       .keys = {{"expert_count", "num_local_experts"},
                {"feed_forward_length", "intermediate_size_mlp"},
                {"attention.key_length", "head_dim"}},
       .read = ReadLlama4,
       .rope_layout = RopeLayout::kInterleaved,
       .scoring = 2},
      {.name = "qwen2moe",
       .model_type = "qwen2_moe",
       .keys = {{"expert_count", "num_experts"},
                {"expert_feed_forward_length", "moe_intermediate_size"},
                {"expert_shared_feed_forward_length", "shared_expert_intermediate_size"}}},
      {.name = "qwen3moe",
       .model_type = "qwen3_moe",
       .keys = {{"expert_count", "num_experts"},
                {"expert_feed_forward_length", "moe_intermediate_size"},
                {"attention.key_length", "head_dim"}},
       .read = ReadQwen3},
      {.name = "olmoe",
       .model_type = "olmoe",
       .keys = {{"expert_count", "num_experts"}, {"attention.clamp_kqv", "clip_qkv"}}},
      {.name = "deepseek2",
       .model_type = "deepseek_v2",
       .keys = {{"expert_count", "n_routed_experts"},
                {"expert_feed_forward_length", "moe_intermediate_size"},
                {"expert_shared_count", "n_shared_experts"},
                {"expert_weights_scale", "routed_scaling_factor"},
                {"expert_group_count", "n_group"},
                {"expert_group_used_count", "topk_group"},
                {"leading_dense_block_count", "first_k_dense_replace"},
                {"attention.q_lora_rank", "q_lora_rank"},
                {"attention.kv_lora_rank", "kv_lora_rank"}},
       .read = ReadDeepSeek,
       .rope_layout = RopeLayout::kInterleaved,
       .scoring = 0},
      {.name = "glm4moe",
       .model_type = "glm4_moe",
       .keys = {{"expert_count", "n_routed_experts"},
                {"expert_feed_forward_length", "moe_intermediate_size"},
                {"expert_shared_count", "n_shared_experts"},
                {"expert_weights_scale", "routed_scaling_factor"},
                {"expert_group_count", "n_group"},
                {"expert_group_used_count", "topk_group"},
                {"leading_dense_block_count", "first_k_dense_replace"},
                {"attention.key_length", "head_dim"}},
       .read = ReadGlm4,
       .names = {{Role::kPostNorm, "post_attention_norm.weight"}},
       .scoring = 2},
      {.name = "minimax-m2",
       .model_type = "minimax_m2",
       .keys = {{"expert_count", "num_local_experts"},
                {"expert_feed_forward_length", "intermediate_size"},
                {"attention.key_length", "head_dim"},
                {"rope.dimension_count", "rotary_dim"}},
       .scoring = 2},
      {.name = "gpt-oss",
       .model_type = "gpt_oss",
       .keys = {{"expert_count", "num_local_experts"},
                {"expert_feed_forward_length", "intermediate_size"},
                {"attention.key_length", "head_dim"},
                {"attention.sliding_window", "sliding_window"}},
       .names = {{Role::kPostNorm, "post_attention_norm.weight"}},
       .scoring = 3,
       .truncate = YarnTruncate::kNo},
      {.name = "phimoe", .model_type = "phimoe", .keys = {{"expert_count", "num_local_experts"}}, .read = ReadPhi},
      {.name = "granitemoe",  // as llama's
       .model_type = "granitemoeshared",
       .keys = {{"expert_count", "num_local_experts"},
                {"expert_shared_feed_forward_length", "shared_intermediate_size"},
                {"attention.scale", "attention_multiplier"},
                {"embedding_scale", "embedding_multiplier"},
                {"residual_scale", "residual_multiplier"},
                {"logit_scale", "logits_scaling"}},
       .rope_layout = RopeLayout::kInterleaved},
  };
}

}  // namespace

const std::vector<GgufArchitecture>& GgufArchitectures() {
  static const std::vector<GgufArchitecture> architectures = AllArchitectures();
  return architectures;
}

std::string GgufKeyName(ConfigReader& in, absl::string_view key) {
  return absl::StrCat(in.String("general.architecture"), ".", key);
}

}  // namespace tokenferry

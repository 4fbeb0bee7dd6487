// One family of models, and what their readers share. Internal to this folder.
#pragma once

#include <optional>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "runtime/model/config_reader.h"
#include "runtime/model/model_spec.h"
#include "runtime/model/rope_reader.h"

namespace tokenferry {

// Beyond any published model, and small enough for products of sizes to fit into int64.
inline constexpr int64_t kMaxSize = int64_t{1} << 24;  // of a dimension
inline constexpr int64_t kMaxHeads = int64_t{1} << 14;
inline constexpr int64_t kMaxHeadDim = int64_t{1} << 12;
inline constexpr int64_t kMaxLayers = 512;
inline constexpr int64_t kMaxExperts = 4096;

// What the keys are called that ReadCommon reads.
struct CommonKeys {
  absl::string_view hidden_size = "hidden_size", num_layers = "num_hidden_layers", norm_eps = "rms_norm_eps";
  absl::string_view activation_key = "hidden_act", activation = "silu";  // the one that there is
  absl::string_view max_positions = "max_position_embeddings";
  std::optional<int64_t> default_positions;  // where the files do not say; none: they must
};

// `read` fills in what config.json says and the family fixes; errors stay in the reader. Before it ReadCommon has run,
// after it come the checks and the quantisation, which are the same for all.
struct Family {
  absl::Span<const absl::string_view> model_types;
  absl::Span<const absl::string_view> architectures;
  void (*read)(ConfigReader& in, ModelSpec& spec);
  CommonKeys keys = {};
};

extern const Family kDeepSeekV2, kDeepSeekV3, kDeepSeekV32, kGlm4Moe, kGlm4MoeLite, kGlmMoeDsa, kGptOss, kGraniteMoe,
    kLlama4, kMiniMaxM2, kMixtral, kOlmoe, kPhiMoe, kQwen2Moe, kQwen35Moe, kQwen3Moe, kQwen3Next, kSwitch;

// Sizes, norms, dtype, end tokens; a LayerSpec for each layer.
void ReadCommon(ConfigReader& in, const CommonKeys& keys, ModelSpec& spec);

// The attention of all layers. Grouped: half-split rotation and scores times head_dim^-0.5.
void ReadLatentAttention(ConfigReader& in, ModelSpec& spec);
void ReadGroupedAttention(ConfigReader& in, ModelSpec& spec, const RopeDefaults& rope = {});
// The indexer of all layers, after ReadLatentAttention: index_n_heads, index_head_dim, index_topk, and
// indexer_rope_interleave, which is as `rope_layout` says where the file does not.
void ReadIndexer(ConfigReader& in, ModelSpec& spec, RopeLayout rope_layout);

// num_experts by the first of `keys` that is there, num_experts_per_tok or experts_per_token, and the width of an
// expert. Files may have the experts one by one or fused by rows; a family with other forms says so after this.
void ReadExperts(ConfigReader& in, ModelSpec& spec, absl::Span<const absl::string_view> keys,
                 absl::string_view width_key);
// scores by sigmoid, choice by score + bias within groups: n_group, topk_group, norm_topk_prob, routed_scaling_factor.
void ReadBiasedRouter(ConfigReader& in, ModelSpec& spec);
// n_group and topk_group, checked against the experts.
void ReadGroups(ConfigReader& in, ModelSpec& spec);
// Layers are dense or sparse as mlp_layer_types lists them. Without it the first first_k_dense_replace are dense, and
// after them those that moe_layer_freq does not divide; where the file has both, they must agree.
void ReadDenseFirst(ConfigReader& in, ModelSpec& spec);
// Layers that mlp_only_layers lists are dense, and so are those whose number, from one on, decoder_sparse_step does not
// divide.
void ReadDenseLayers(ConfigReader& in, ModelSpec& spec);
// n_shared_experts, as one network of so many times the width of an expert.
void ReadSharedExperts(ConfigReader& in, ModelSpec& spec);
// Qwen's: one shared expert, whose output has a score of its own. Sets names.
void ReadScoredSharedExpert(ConfigReader& in, ModelSpec& spec);
// `layer_types`, for each layer one of `known`; empty when the file has none.
std::vector<std::string> ReadLayerTypes(ConfigReader& in, const ModelSpec& spec,
                                        absl::Span<const absl::string_view> known);

// quantization_config, of any family.
absl::Status ReadQuantization(ConfigReader& in, ModelSpec& spec);

// Every layer has experts.
void AllLayersMoe(ModelSpec& spec);
// Mixtral's names of a layer's experts.
void NameLikeMixtral(ModelSpec& spec);

}  // namespace tokenferry

// What a model is, as data: all that planning, loading and running need to know of it. runtime/families reads it from a
// config.json; from here on nothing goes by a family's name.
#pragma once

#include <algorithm>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "core/formats/dtype.h"
#include "core/moe/gated_activation.h"
#include "core/moe/router_spec.h"
#include "runtime/attention/attention_ops.h"
#include "runtime/attention/gated_delta.h"
#include "runtime/attention/relative_bias.h"
#include "runtime/attention/rope.h"
#include "runtime/model/quant_spec.h"
#include "runtime/model/weight_role.h"

namespace tokenferry {

enum class AttentionKind : uint8_t {
  kLatent,      // multi-head latent attention (DeepSeek-V2/V3)
  kGrouped,     // a key and a value head for every num_heads / num_kv_heads query heads; all of them alike: MHA
  kGatedDelta,  // a gated delta net, whose sequences have a state instead of keys and values (Qwen3-Next)
};

// How the projections of a gated delta net are stored.
enum class DeltaProjections : uint8_t {
  kApart,    // queries, keys and values together, the rest each by itself
  kGrouped,  // two matrices; of each key head its query, key, values and gates, and its betas and decays
};

// Whose layers: a model that has an encoder reads a sequence's input with it, whole, and its decoder attends to what
// comes of that. All others are a decoder alone.
enum class Stack : uint8_t { kDecoder, kEncoder };

// The norms of hidden states: before attention, before the network, and the last one.
enum class NormKind : uint8_t {
  kRms,
  kLayer,  // with a bias (Phi-3.5-MoE)
};

// Root-mean-square norms of queries and keys, before the rotation where nothing else is said.
enum class QkNorm : uint8_t {
  kNone,
  kHead,        // of each head, one weight for all: [head_dim]
  kUnit,        // of each head, without a weight, after the rotation
  kProjection,  // of all heads together: [num_heads * head_dim], [num_kv_heads * head_dim]
};

enum class Rotation : uint8_t { kNone, kRotary };

// Queries are multiplied by 1 + scale * ln(1 + floor((position + 1) / period)); scale 0: they are not (Llama 4).
struct Temperature {
  float scale = 0, period = 0;

  friend bool operator==(const Temperature&, const Temperature&) = default;
};

// How the files hold the matrices of experts.
enum class FusedExperts : uint8_t {
  kNone,                // each by itself
  kStacked,             // gate [E, I, H], up [E, I, H], down [E, H, I], and biases [E, ..] alike
  kRows,                // [E, 2I, H] gate rows, then up rows; [E, H, I]
  kRowsOfAll,           // the same, and a shared network's alike, [2S, H]
  kColumns,             // transposed: [E, H, 2I] gate columns, then up columns; [E, I, H]
  kInterleavedColumns,  // transposed: [E, H, 2I] gate and up columns in turn; [E, I, H]
};

// What projects an attention's output into the hidden states.
constexpr Role OutputRole(AttentionKind kind) {
  return kind == AttentionKind::kGatedDelta ? Role::kDeltaOut : Role::kO;
}

// Which keys a token's latent attention sees: all, or those that an indexer scores highest (runtime/attention/
// key_selection.h).
struct IndexerSpec {
  enum class Kind : uint8_t {
    kNone,
    kOwn,     // the layer has an indexer
    kShared,  // what the last layer with one has selected
  };
  Kind kind = Kind::kNone;
  int64_t num_heads = 0, head_dim = 0;  // of the indexer's queries; the first rope_dim of a head turn
  int64_t num_selected = 0;
  RopeLayout rope_layout = RopeLayout::kHalfSplit;

  friend bool operator==(const IndexerSpec&, const IndexerSpec&) = default;
  // Values of a token in the cache.
  int64_t cache_size() const { return kind == Kind::kOwn ? head_dim : 0; }
};

struct AttentionSpec {
  AttentionKind kind = AttentionKind::kLatent;
  int64_t num_heads = 0;  // of queries
  float scale = 0;        // of scores
  Rotation rotation = Rotation::kRotary;
  RopeLayout rope_layout = RopeLayout::kInterleaved;

  // kLatent. Of a query head `nope_dim` values meet the latent and `rope_dim` the rotated key.
  int64_t q_lora_rank = 0;  // 0: one q_proj instead of q_a_proj and q_b_proj
  int64_t kv_lora_rank = 0;
  int64_t nope_dim = 0, rope_dim = 0, value_dim = 0;
  float latent_norm_eps = 1e-6f;  // of the norms of both latents and of an indexer's keys, whatever the layers' have
  IndexerSpec indexer;

  // kGrouped.
  int64_t num_kv_heads = 0;
  int64_t head_dim = 0;
  QkNorm qk_norm = QkNorm::kNone;
  bool has_qkv_bias = false, has_o_bias = false;
  float clip_qkv = 0;  // queries, keys and values are limited to +-clip_qkv before the rotation; 0: they are not
  KeyRange keys;       // which ones a token sees
  bool has_sinks = false;
  bool sees_all = false;            // all of the input, whatever the position: an encoder's
  RelativeBuckets relative;         // what scores gain by distance
  bool has_relative_table = false;  // the layer has a table of its own; else that of the nearest one before it holds
  Temperature temperature;
  // q_proj has for each head its queries, then as many gates: outputs are times their sigmoid. With QkNorm::kHead.
  bool has_output_gate = false;

  // kGatedDelta.
  DeltaShape delta;
  DeltaProjections delta_projections = DeltaProjections::kApart;

  friend bool operator==(const AttentionSpec&, const AttentionSpec&) = default;
  int64_t query_size() const { return num_heads * (kind == AttentionKind::kLatent ? nope_dim + rope_dim : head_dim); }
  int64_t query_rows() const { return has_output_gate ? 2 * query_size() : query_size(); }  // of q_proj
  int64_t output_size() const {
    if (kind == AttentionKind::kGatedDelta) return delta.values_size();
    return num_heads * (kind == AttentionKind::kLatent ? value_dim : head_dim);
  }
  // A token's row of the KV cache has two parts: latent and rotated key, or all keys and all values; or none.
  int64_t cache_first() const { return kind == AttentionKind::kLatent ? kv_lora_rank : num_kv_heads * head_dim; }
  int64_t cache_second() const { return kind == AttentionKind::kLatent ? rope_dim : num_kv_heads * head_dim; }
  int64_t cache_row() const { return cache_first() + cache_second(); }
  // Values that are kept of a sequence as a whole.
  int64_t state_size() const { return kind == AttentionKind::kGatedDelta ? delta.state_size() : 0; }
};

struct LayerSpec {
  AttentionSpec attention;
  bool is_moe = false;
  int64_t dense_intermediate = 0;   // of the layer's one network, where it is no MoE layer
  bool attends_to_encoder = false;  // after its own attention, by heads of the same number and size

  friend bool operator==(const LayerSpec&, const LayerSpec&) = default;
};

// What all MoE layers of a model have in common.
struct MoeSpec {
  int64_t num_experts = 0;  // E
  int64_t intermediate = 0;
  RouterSpec router;
  bool has_router_bias = false;            // of the logits
  bool has_choice_bias = false;            // e_score_correction_bias: experts are chosen by score + bias
  WeightOn weight_on = WeightOn::kOutput;  // kInput: with top_k 1 only
  GatedActivation activation;              // of the routed experts
  // Of each sequence an expert takes so many tokens, the first ones, and the others get nothing from it (Switch); 0: it
  // takes all.
  int64_t sequence_capacity = 0;
  bool has_expert_bias = false;     // of all three matrices
  int64_t shared_intermediate = 0;  // of the network that all tokens meet; 0: none
  bool has_shared_score = false;    // its output is times sigmoid(x . shared_expert_gate)

  friend bool operator==(const MoeSpec&, const MoeSpec&) = default;
};

// A value. What runtime/families returns is consistent: every product of two sizes fits into int64, layers are at least
// one, and so are experts.
struct ModelSpec {
  std::string model_type;  // as config.json says

  int64_t vocab_size = 0;
  int64_t hidden_size = 0;
  int64_t max_position_embeddings = 0;
  NormKind norm = NormKind::kRms;
  bool has_norms_minus_one = false;  // stored norms of hidden states, queries and keys are one less than they are
  float norm_eps = 1e-6f;            // of all norms but those of latents
  bool tie_word_embeddings = false;  // lm_head is embed_tokens
  DType dtype = DType::kBF16;        // what is not quantised
  float embedding_scale = 1;         // of embedded tokens
  float residual_scale = 1;          // of what a layer's two parts add
  bool has_head_bias = false;        // of lm_head, before logits_scale
  float logits_scale = 1;
  // Of dense layers: kSilu or kRelu. The shared expert has silu.
  GatedActivation::Kind dense_activation = GatedActivation::Kind::kSilu;
  RopeConfig rope;                 // of all layers
  std::vector<LayerSpec> layers;   // without multi-token-prediction modules
  int64_t num_encoder_layers = 0;  // the first of `layers`; 0: there is no encoder
  MoeSpec moe;

  QuantSpec quant;  // of the projections

  // How the files name things.
  std::string prefix;                          // before every tensor's name, "language_model."
  std::string layer_prefix = "model.layers.";  // before the number of a layer
  FusedExperts fused = FusedExperts::kNone;
  std::optional<FusedExperts> fused_instead;  // how the files may have them too (WithExpertsInstead); none: in no way
  std::map<Role, std::string> names;          // where a family differs from InfoOf(role).name
  std::string encoder_prefix;                 // layer_prefix of an encoder, whose layers are numbered from 0 too
  std::map<Role, std::string> encoder_names;  // of its layers, instead of `names`
  bool has_split_kv_b = false;                // kKvB is stored as keys and values apart (runtime/model/split_kv_b.h)
  std::vector<std::string> not_read;          // prefixes of tensors that generating text does not need

  int32_t bos_token_id = -1;           // -1: none
  std::vector<int32_t> eos_token_ids;  // any of them ends a text; may be empty
  int32_t decoder_start_token_id = 0;  // of a model with an encoder: what its decoder begins with

  friend bool operator==(const ModelSpec&, const ModelSpec&) = default;
  int64_t num_layers() const { return static_cast<int64_t>(layers.size()); }
  // Keys that a token sees at most, of layers with an indexer; 0: there are none.
  int64_t num_selected_keys() const {
    int64_t most = 0;
    for (const LayerSpec& layer : layers) most = std::max(most, layer.attention.indexer.num_selected);
    return most;
  }
  // Of layers that keep a state of each sequence, which follows from all its tokens.
  bool has_states() const {
    for (const LayerSpec& layer : layers) {
      if (layer.attention.state_size() > 0) return true;
    }
    return false;
  }
  int64_t num_moe_layers() const { return num_moe_layers(Stack::kEncoder) + num_moe_layers(Stack::kDecoder); }
  bool has_encoder() const { return num_encoder_layers > 0; }
  // How many tokens an answer may have in a context of so many positions; negative: not even the prompt has room. With
  // an encoder a prompt has positions of its own, and the decoder's start takes one of the answer's.
  int64_t answer_room(int64_t prompt_tokens, int64_t context) const {
    return has_encoder() && prompt_tokens <= context ? context - 1 : context - prompt_tokens;
  }
  // Those of a stack are layers [first_layer, first_layer + num_layers).
  int64_t first_layer(Stack stack) const { return stack == Stack::kEncoder ? 0 : num_encoder_layers; }
  int64_t num_layers(Stack stack) const {
    return stack == Stack::kEncoder ? num_encoder_layers : num_layers() - num_encoder_layers;
  }
  int64_t num_moe_layers(Stack stack) const {
    int64_t count = 0;
    for (int64_t l = 0; l < num_layers(stack); ++l) count += layers[first_layer(stack) + l].is_moe ? 1 : 0;
    return count;
  }
};

}  // namespace tokenferry

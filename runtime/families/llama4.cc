// Llama 4 (text): chunked attention with rotation, every few layers full attention without it, one expert whose input
// is scaled.
#include <algorithm>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "runtime/families/family.h"

namespace tokenferry {
namespace {

constexpr absl::string_view kTypes[] = {"llama4_text"};
constexpr absl::string_view kArchitectures[] = {"Llama4ForCausalLM"};

// The keys of chunked layers; an explicit null is not what a missing key is.
KeyRange ReadChunk(ConfigReader& in) {
  constexpr absl::string_view kKey = "attention_chunk_size";
  if (in.IsNull(kKey)) in.Fail(kKey, "is null, but layers have chunked attention");
  return {KeyRange::Kind::kChunk, in.Int(kKey, 1, kMaxSize, 8192)};
}

// Scout's file has a number here, which is as true as true in Python.
bool ReadTuning(ConfigReader& in) {
  constexpr absl::string_view kKey = "attn_temperature_tuning";
  const std::optional<JsonNode> value = in.Find(kKey);
  return value && value->value().is_number_integer() ? value->value() != 0 : in.Bool(kKey, true);
}

// Which layers have a rotation: no_rope_layers lists them as 1, and may list more layers than there are; without it all
// but every interval-th.
std::vector<bool> ReadRotations(ConfigReader& in, const ModelSpec& spec) {
  const int64_t interval = in.Int("no_rope_layer_interval", 1, kMaxLayers, 4);
  const std::vector<int64_t> listed = in.IntOrList("no_rope_layers", 0, 1);
  std::vector<bool> rotates;
  if (!listed.empty() && listed.size() < spec.layers.size()) {
    in.Fail("no_rope_layers", absl::StrCat("has ", listed.size(), " entries for ", spec.num_layers(), " layers"));
  }
  for (int64_t i = 0; i < spec.num_layers() && in.ok(); ++i) {
    rotates.push_back(listed.empty() ? (i + 1) % interval != 0 : listed[i] == 1);
  }
  return rotates;
}

// layer_types alone says which layers have chunks; without it those with a rotation do.
void ReadAttention(ConfigReader& in, ModelSpec& spec) {
  ReadGroupedAttention(in, spec);
  const bool bias = in.Bool("attention_bias", false), norm = in.Bool("use_qk_norm", true), tuned = ReadTuning(in);
  const double attn_scale = in.Number("attn_scale", 0, 1e6, 0.1), floor = in.Number("floor_scale", 1, 1e9, 8192);
  const std::vector<bool> rotates = ReadRotations(in, spec);
  const std::vector<std::string> types = ReadLayerTypes(in, spec, {"full_attention", "chunked_attention"});
  for (int64_t i = 0; i < spec.num_layers() && in.ok(); ++i) {
    AttentionSpec& a = spec.layers[i].attention;
    a.has_qkv_bias = a.has_o_bias = bias;
    if (types.empty() ? rotates[i] : types[i] == "chunked_attention") a.keys = ReadChunk(in);
    if (rotates[i]) {
      a.rope_layout = RopeLayout::kInterleaved;
      a.qk_norm = norm ? QkNorm::kUnit : QkNorm::kNone;
    } else {
      a.rotation = Rotation::kNone;
      if (tuned) a.temperature = {static_cast<float>(attn_scale), static_cast<float>(floor)};
    }
  }
}

void Read(ConfigReader& in, ModelSpec& spec) {
  ReadAttention(in, spec);
  ReadExperts(in, spec, {"num_local_experts", "num_experts"}, "intermediate_size");
  const int64_t dense = in.Int("intermediate_size_mlp", 1, kMaxSize);
  const int64_t step = in.Int("interleave_moe_layer_step", 1, kMaxLayers, 1);
  const std::vector<int64_t> listed = in.IntOrList("moe_layers", 0, kMaxLayers);
  const bool is_listed = in.Has("moe_layers");  // an empty list makes all layers dense
  for (int64_t i = 0; i < spec.num_layers(); ++i) {
    spec.layers[i].is_moe =
        is_listed ? std::find(listed.begin(), listed.end(), i) != listed.end() : (i + 1) % step == 0;
    spec.layers[i].dense_intermediate = dense;
  }
  MoeSpec& moe = spec.moe;
  moe.router.scoring = Scoring::kSigmoid;
  moe.weight_on = WeightOn::kInput;
  moe.shared_intermediate = moe.intermediate;
  if (in.ok() && moe.router.top_k != 1) {
    in.FailUnsupported("num_experts_per_tok", "is not 1; several experts with scaled inputs are not supported");
  }
  spec.names = {{Role::kRouter, "feed_forward.router.weight"},
                {Role::kExpertGate, "feed_forward.experts.gate_up_proj"},
                {Role::kExpertUp, "feed_forward.experts.gate_up_proj"},
                {Role::kExpertDown, "feed_forward.experts.down_proj"},
                {Role::kSharedGate, "feed_forward.shared_expert.gate_proj.weight"},
                {Role::kSharedUp, "feed_forward.shared_expert.up_proj.weight"},
                {Role::kSharedDown, "feed_forward.shared_expert.down_proj.weight"},
                {Role::kDenseGate, "feed_forward.gate_proj.weight"},
                {Role::kDenseUp, "feed_forward.up_proj.weight"},
                {Role::kDenseDown, "feed_forward.down_proj.weight"}};
  spec.fused = FusedExperts::kColumns;
  spec.fused_instead = FusedExperts::kNone;  // quantised files
}

}  // namespace

const Family kLlama4 = {kTypes, kArchitectures, Read};

}  // namespace tokenferry

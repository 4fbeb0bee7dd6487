// Llama 4 (text): chunked attention with rotation, every few layers full attention without it, one expert whose input
// is scaled.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "runtime/families/family.h"

namespace tokenferry {
namespace {

constexpr absl::string_view kTypes[] = {"llama4_text"};
constexpr absl::string_view kArchitectures[] = {"Llama4ForCausalLM"};

// no_rope_layers lists the layers that do have a rotation as 1; without it every interval-th has none.
void ReadAttention(ConfigReader& in, ModelSpec& spec) {
  ReadGroupedAttention(in, spec);
  const bool bias = in.Bool("attention_bias", false), norm = in.Bool("use_qk_norm", true);
  const int64_t chunk = in.Int("attention_chunk_size", 1, kMaxSize, 8192);
  const int64_t interval = in.Int("no_rope_layer_interval", 1, kMaxLayers, 4);
  const bool tuned = in.Bool("attn_temperature_tuning", true);
  const double attn_scale = in.Number("attn_scale", 0, 1e6, 0.1), floor = in.Number("floor_scale", 1, 1e9, 8192);
  std::vector<int64_t> rotates = in.IntOrList("no_rope_layers", 0, 1);
  if (!rotates.empty() && rotates.size() != spec.layers.size()) {
    in.Fail("no_rope_layers", absl::StrCat("has ", rotates.size(), " entries for ", spec.num_layers(), " layers"));
    return;
  }
  for (int64_t i = 0; i < spec.num_layers(); ++i) {
    AttentionSpec& a = spec.layers[i].attention;
    a.has_qkv_bias = a.has_o_bias = bias;
    if (rotates.empty() ? (i + 1) % interval != 0 : rotates[i] == 1) {
      a.rope_layout = RopeLayout::kInterleaved;
      a.qk_norm = norm ? QkNorm::kUnit : QkNorm::kNone;
      a.keys = {KeyRange::Kind::kChunk, chunk};
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
  for (int64_t i = 0; i < spec.num_layers(); ++i) {
    spec.layers[i].is_moe =
        listed.empty() ? (i + 1) % step == 0 : std::find(listed.begin(), listed.end(), i) != listed.end();
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
}

}  // namespace

const Family kLlama4 = {kTypes, kArchitectures, Read};

}  // namespace tokenferry

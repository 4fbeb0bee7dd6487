// GLM-4.5 to 4.7 (grouped attention, half of each head turns) and GLM-4.7-Flash (latent attention); routers as
// DeepSeek-V3's.
#include "runtime/families/family.h"

namespace tokenferry {
namespace {

constexpr absl::string_view kTypes[] = {"glm4_moe"};
constexpr absl::string_view kArchitectures[] = {"Glm4MoeForCausalLM"};
constexpr absl::string_view kLiteTypes[] = {"glm4_moe_lite"};
constexpr absl::string_view kLiteArchitectures[] = {"Glm4MoeLiteForCausalLM"};

void ReadNetworks(ConfigReader& in, ModelSpec& spec) {
  ReadDenseFirst(in, spec);
  ReadExperts(in, spec, {"n_routed_experts", "num_local_experts", "num_experts"}, "moe_intermediate_size");
  ReadSharedExperts(in, spec);
  ReadBiasedRouter(in, spec);
}

void Read(ConfigReader& in, ModelSpec& spec) {
  ReadGroupedAttention(in, spec, PartialRotation::kAllowed);
  const bool bias = in.Bool("attention_bias", false), norm = in.Bool("use_qk_norm", false);
  for (LayerSpec& layer : spec.layers) {
    layer.attention.has_qkv_bias = bias;  // o_proj never has one
    layer.attention.qk_norm = norm ? QkNorm::kHead : QkNorm::kNone;
  }
  ReadNetworks(in, spec);
}

void ReadLite(ConfigReader& in, ModelSpec& spec) {
  ReadLatentAttention(in, spec);
  ReadNetworks(in, spec);
}

}  // namespace

const Family kGlm4Moe = {kTypes, kArchitectures, Read};
const Family kGlm4MoeLite = {kLiteTypes, kLiteArchitectures, ReadLite};

}  // namespace tokenferry

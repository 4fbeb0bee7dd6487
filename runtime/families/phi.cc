// Phi-3.5-MoE: layer norms with biases, LongRoPE, and a router that chooses two experts one after the other.
#include "runtime/families/family.h"

namespace tokenferry {
namespace {

constexpr absl::string_view kTypes[] = {"phimoe"};
constexpr absl::string_view kArchitectures[] = {"PhiMoEForCausalLM", "PhimoeForCausalLM"};

void Read(ConfigReader& in, ModelSpec& spec) {
  ReadGroupedAttention(in, spec);
  const bool bias = in.Bool("attention_bias", false);
  const int64_t window = in.Int("sliding_window", 1, kMaxSize, 0);
  for (LayerSpec& layer : spec.layers) {
    layer.attention.has_qkv_bias = layer.attention.has_o_bias = bias;
    if (window > 0) layer.attention.keys = {KeyRange::Kind::kSliding, window};
  }
  spec.norm = NormKind::kLayer;
  spec.has_head_bias = in.Bool("lm_head_bias", false);
  AllLayersMoe(spec);
  ReadExperts(in, spec, {"num_local_experts", "num_experts"}, "intermediate_size");
  RouterSpec& router = spec.moe.router;
  router.scoring = Scoring::kSparseMixer;
  if (router.top_k != 2) in.FailUnsupported("num_experts_per_tok", "is not 2; the sparse mixer chooses two experts");
  // Beside the noise of training it is the width of the masks at inference.
  router.mixer_eps = static_cast<float>(in.Number("router_jitter_noise", 0, 1, 0.01));
  NameLikeMixtral(spec);
  spec.fused_instead.reset();  // transformers 5 has another name for the router then
}

}  // namespace

const Family kPhiMoe = {kTypes, kArchitectures, Read};

}  // namespace tokenferry

// OLMoE-1B-7B.
#include "runtime/families/family.h"

namespace tokenferry {
namespace {

constexpr absl::string_view kTypes[] = {"olmoe"};
constexpr absl::string_view kArchitectures[] = {"OlmoeForCausalLM"};

void Read(ConfigReader& in, ModelSpec& spec) {
  ReadGroupedAttention(in, spec);
  const bool bias = in.Bool("attention_bias", false);
  const double clip = in.Has("clip_qkv") ? in.Number("clip_qkv", 1e-6, 1e6) : 0;
  for (LayerSpec& layer : spec.layers) {
    layer.attention.qk_norm = QkNorm::kProjection;
    layer.attention.has_qkv_bias = layer.attention.has_o_bias = bias;
    layer.attention.clip_qkv = static_cast<float>(clip);
  }
  AllLayersMoe(spec);
  ReadExperts(in, spec, {"num_experts", "num_local_experts"}, "intermediate_size");
  spec.moe.router.renormalise = in.Bool("norm_topk_prob", false) ? Renormalise::kYes : Renormalise::kNo;
}

}  // namespace

const Family kOlmoe = {kTypes, kArchitectures, Read};

}  // namespace tokenferry

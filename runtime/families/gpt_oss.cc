// gpt-oss in 16 bits: attention sinks, every second layer with a window, biases everywhere, a clamped activation.
#include <utility>

#include "runtime/families/family.h"

namespace tokenferry {
namespace {

constexpr absl::string_view kTypes[] = {"gpt_oss"};
constexpr absl::string_view kArchitectures[] = {"GptOssForCausalLM"};

void ReadWindows(ConfigReader& in, ModelSpec& spec) {
  const int64_t window = in.Int("sliding_window", 1, kMaxSize);
  const std::vector<std::string> types = ReadLayerTypes(in, spec, {"full_attention", "sliding_attention"});
  if (!in.ok()) return;
  for (int64_t i = 0; i < spec.num_layers(); ++i) {
    const bool slides = types.empty() ? i % 2 == 0 : types[i] == "sliding_attention";
    if (slides) spec.layers[i].attention.keys = {KeyRange::Kind::kSliding, window};
  }
}

void Read(ConfigReader& in, ModelSpec& spec) {
  RopeConfig yarn{.scaling = RopeScaling::kYarn, .factor = 32, .original_max_position = 4096, .truncate = false};
  ReadGroupedAttention(in, spec, {.scaling = std::move(yarn)});
  const bool bias = in.Bool("attention_bias", true);
  for (LayerSpec& layer : spec.layers) {
    layer.attention.has_sinks = true;
    layer.attention.has_qkv_bias = layer.attention.has_o_bias = bias;
  }
  ReadWindows(in, spec);
  AllLayersMoe(spec);
  ReadExperts(in, spec, {"num_local_experts", "num_experts"}, "intermediate_size");
  MoeSpec& moe = spec.moe;
  moe.router.scoring = Scoring::kSoftmaxOfChosen;
  moe.has_router_bias = moe.has_expert_bias = true;
  moe.activation = {GatedActivation::Kind::kClampedSwiglu,
                    static_cast<float>(in.Number("swiglu_limit", 1e-6, 1e6, 7.0)),
                    static_cast<float>(in.Number("swiglu_alpha", 1e-6, 1e6, 1.702))};
  spec.names = {{Role::kRouter, "mlp.router.weight"},
                {Role::kRouterBias, "mlp.router.bias"},
                {Role::kExpertGate, "mlp.experts.gate_up_proj"},
                {Role::kExpertUp, "mlp.experts.gate_up_proj"},
                {Role::kExpertDown, "mlp.experts.down_proj"},
                {Role::kExpertGateBias, "mlp.experts.gate_up_proj_bias"},
                {Role::kExpertUpBias, "mlp.experts.gate_up_proj_bias"},
                {Role::kExpertDownBias, "mlp.experts.down_proj_bias"}};
  spec.fused = FusedExperts::kInterleavedColumns;
  spec.fused_instead.reset();
}

}  // namespace

const Family kGptOss = {kTypes, kArchitectures, Read};

}  // namespace tokenferry

// Granite-MoE 3.x (granitemoe) and its form with a shared network (granitemoeshared): four multipliers, a softmax over
// the chosen experts, fused matrices.
#include "runtime/families/family.h"

namespace tokenferry {
namespace {

constexpr absl::string_view kTypes[] = {"granitemoe", "granitemoeshared"};
constexpr absl::string_view kArchitectures[] = {"GraniteMoeForCausalLM", "GraniteMoeSharedForCausalLM"};

void Read(ConfigReader& in, ModelSpec& spec) {
  ReadGroupedAttention(in, spec);
  const bool bias = in.Bool("attention_bias", false);
  const double scale = in.Number("attention_multiplier", 1e-6, 1e6, 1);
  for (LayerSpec& layer : spec.layers) {
    layer.attention.scale = static_cast<float>(scale);
    layer.attention.has_qkv_bias = layer.attention.has_o_bias = bias;
  }
  spec.embedding_scale = static_cast<float>(in.Number("embedding_multiplier", 1e-6, 1e6, 1));
  spec.residual_scale = static_cast<float>(in.Number("residual_multiplier", 1e-6, 1e6, 1));
  spec.logits_scale = static_cast<float>(1 / in.Number("logits_scaling", 1e-6, 1e6, 1));
  AllLayersMoe(spec);
  ReadExperts(in, spec, {"num_local_experts", "num_experts"}, "intermediate_size");
  spec.moe.router.scoring = Scoring::kSoftmaxOfChosen;
  spec.moe.shared_intermediate =
      spec.model_type == "granitemoeshared" ? in.Int("shared_intermediate_size", 0, kMaxSize, 0) : 0;
  spec.names = {{Role::kRouter, "block_sparse_moe.router.layer.weight"},
                {Role::kExpertGate, "block_sparse_moe.input_linear.weight"},
                {Role::kExpertUp, "block_sparse_moe.input_linear.weight"},
                {Role::kExpertDown, "block_sparse_moe.output_linear.weight"},
                {Role::kSharedGate, "shared_mlp.input_linear.weight"},
                {Role::kSharedUp, "shared_mlp.input_linear.weight"},
                {Role::kSharedDown, "shared_mlp.output_linear.weight"}};
  spec.fused = FusedExperts::kRowsOfAll;
  spec.fused_instead.reset();
}

}  // namespace

const Family kGraniteMoe = {kTypes, kArchitectures, Read};

}  // namespace tokenferry

// Qwen3-Next, and the text models of Qwen3.5 and 3.6: gated delta nets, every few layers attention whose output has a
// gate, norms stored minus one.
#include "absl/strings/str_cat.h"
#include "runtime/families/family.h"

namespace tokenferry {
namespace {

constexpr absl::string_view kNextTypes[] = {"qwen3_next"};
constexpr absl::string_view kNextArchitectures[] = {"Qwen3NextForCausalLM"};
constexpr absl::string_view kQwen35Types[] = {"qwen3_5_moe_text"};
constexpr absl::string_view kQwen35Architectures[] = {"Qwen3_5MoeForCausalLM"};

constexpr absl::string_view kFull = "full_attention", kLinear = "linear_attention";

// Which layers have attention over all keys: as layer_types lists them, or every full_attention_interval-th.
std::vector<std::string> ReadHybridTypes(ConfigReader& in, const ModelSpec& spec) {
  std::vector<std::string> types = ReadLayerTypes(in, spec, {kFull, kLinear});
  const int64_t interval = in.Int("full_attention_interval", 1, kMaxLayers, 4);
  if (types.empty()) {
    for (int64_t i = 0; i < spec.num_layers(); ++i) types.emplace_back((i + 1) % interval == 0 ? kFull : kLinear);
  }
  return types;
}

DeltaShape ReadDelta(ConfigReader& in) {
  DeltaShape d{.num_key_heads = in.Int("linear_num_key_heads", 1, kMaxHeads),
               .num_value_heads = in.Int("linear_num_value_heads", 1, kMaxHeads),
               .key_dim = in.Int("linear_key_head_dim", 1, kMaxHeadDim),
               .value_dim = in.Int("linear_value_head_dim", 1, kMaxHeadDim),
               .conv_size = in.Int("linear_conv_kernel_dim", 1, kMaxHeadDim)};
  if (in.ok() && d.num_value_heads % d.num_key_heads != 0) {
    in.Fail("linear_num_value_heads", absl::StrCat("is ", d.num_value_heads, ", which linear_num_key_heads ",
                                                   d.num_key_heads, " does not divide"));
  }
  return d;
}

void ReadHybridAttention(ConfigReader& in, ModelSpec& spec, DeltaProjections projections) {
  ReadGroupedAttention(in, spec, {.partial_rotary_factor = 0.25});
  if (in.Bool("attention_bias", false)) in.FailUnsupported("attention_bias", "is true; only false is supported");
  const bool has_gate = in.Bool("attn_output_gate", true);
  const AttentionSpec delta{
      .kind = AttentionKind::kGatedDelta, .delta = ReadDelta(in), .delta_projections = projections};
  const std::vector<std::string> types = ReadHybridTypes(in, spec);
  if (!in.ok()) return;
  for (int64_t i = 0; i < spec.num_layers(); ++i) {
    AttentionSpec& a = spec.layers[i].attention;
    a.qk_norm = QkNorm::kHead;
    a.has_output_gate = has_gate;
    if (types[i] == kLinear) a = delta;
  }
}

void ReadExpertsAndNames(ConfigReader& in, ModelSpec& spec) {
  ReadExperts(in, spec, {"num_experts", "num_local_experts"}, "moe_intermediate_size");
  ReadScoredSharedExpert(in, spec);
  spec.has_norms_minus_one = true;
  spec.not_read.emplace_back("mtp.");
}

void ReadNext(ConfigReader& in, ModelSpec& spec) {
  ReadHybridAttention(in, spec, DeltaProjections::kGrouped);
  ReadExpertsAndNames(in, spec);
  spec.moe.router.renormalise = in.Bool("norm_topk_prob", true) ? Renormalise::kYes : Renormalise::kNo;
  ReadDenseLayers(in, spec);
}

void ReadQwen35(ConfigReader& in, ModelSpec& spec) {
  ReadHybridAttention(in, spec, DeltaProjections::kApart);
  ReadExpertsAndNames(in, spec);
  AllLayersMoe(spec);
  spec.moe.router.renormalise = Renormalise::kYes;
  spec.fused = FusedExperts::kRows;
  spec.fused_instead = FusedExperts::kNone;
  spec.names[Role::kExpertGate] = spec.names[Role::kExpertUp] = "mlp.experts.gate_up_proj";
  spec.names[Role::kExpertDown] = "mlp.experts.down_proj";
}

}  // namespace

const Family kQwen3Next = {kNextTypes, kNextArchitectures, ReadNext};
const Family kQwen35Moe = {kQwen35Types, kQwen35Architectures, ReadQwen35};

}  // namespace tokenferry

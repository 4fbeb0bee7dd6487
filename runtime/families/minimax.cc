// MiniMax-M2 to M2.7: norms over whole projections, half of each head turns, sigmoid scores with a bias.
#include "absl/strings/str_cat.h"
#include "runtime/families/family.h"

namespace tokenferry {
namespace {

constexpr absl::string_view kTypes[] = {"minimax_m2"};
constexpr absl::string_view kArchitectures[] = {"MiniMaxM2ForCausalLM"};

bool HasPartialFactor(const ConfigReader& in) {
  constexpr absl::string_view kFactor = "partial_rotary_factor";
  for (const absl::string_view key : {"rope_parameters", "rope_scaling"}) {
    const std::optional<JsonNode> object = in.Find(key);
    if (object && ConfigReader(*object).Has(kFactor)) return true;
  }
  return in.Has(kFactor);
}

// Older files say how many dimensions turn, newer ones which part of a head.
void ReadRotaryDim(ConfigReader& in, ModelSpec& spec) {
  const int64_t dim = in.Int("rotary_dim", 2, kMaxHeadDim, spec.rope.dim);
  if (in.ok() && HasPartialFactor(in) && dim != spec.rope.dim) {
    in.Fail("rotary_dim", absl::StrCat("is ", dim, ", but partial_rotary_factor makes it ", spec.rope.dim));
  }
  if (dim > spec.layers[0].attention.head_dim || dim % 2 != 0) {
    in.Fail("rotary_dim", absl::StrCat("is ", dim, ", which is no even part of head_dim"));
  }
  spec.rope.dim = dim;
}

void Read(ConfigReader& in, ModelSpec& spec) {
  ReadGroupedAttention(in, spec, {.partial_rotary_factor = 1});
  ReadRotaryDim(in, spec);
  for (const int64_t type : in.IntOrList("attn_type_list", 0, 1)) {
    if (type != 1) in.FailUnsupported("attn_type_list", "has a 0 (linear attention); only 1 is supported");
  }
  const bool norm = in.Bool("use_qk_norm", true);
  const std::string norm_type = in.String("qk_norm_type", "per_layer");
  in.RequireOneOf("qk_norm_type", norm_type, {"per_layer"}, "query and key norm");
  for (LayerSpec& layer : spec.layers) layer.attention.qk_norm = norm ? QkNorm::kProjection : QkNorm::kNone;
  AllLayersMoe(spec);
  ReadExperts(in, spec, {"num_local_experts", "num_experts"}, "intermediate_size");
  const std::string scoring_func = in.String("scoring_func", "sigmoid");
  in.RequireOneOf("scoring_func", scoring_func, {"sigmoid"}, "scoring function");
  if (in.Int("shared_intermediate_size", 0, kMaxSize, 0) != 0) {
    in.FailUnsupported("shared_intermediate_size", "is not 0; no published model has shared experts");
  }
  spec.moe.router.scoring = Scoring::kSigmoid;
  spec.moe.router.renormalise = Renormalise::kYes;
  spec.moe.has_choice_bias = in.Bool("use_routing_bias", true);
  NameLikeMixtral(spec);
  spec.names[Role::kChoiceBias] = "block_sparse_moe.e_score_correction_bias";
}

}  // namespace

const Family kMiniMaxM2 = {kTypes, kArchitectures, Read};

}  // namespace tokenferry

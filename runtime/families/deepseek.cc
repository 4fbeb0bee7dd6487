// DeepSeek-V3, R1, V3.1 and Kimi-K2; V3.2, whose attention sees the keys that an indexer selects; DeepSeek-V2 and
// V2-Lite: latent attention, groups of experts.
#include "runtime/families/family.h"

namespace tokenferry {
namespace {

constexpr absl::string_view kV3Types[] = {"deepseek_v3", "kimi_k2"};
constexpr absl::string_view kV3Architectures[] = {"DeepseekV3ForCausalLM"};
constexpr absl::string_view kV32Types[] = {"deepseek_v32"};
constexpr absl::string_view kV32Architectures[] = {"DeepseekV32ForCausalLM"};
constexpr absl::string_view kV2Types[] = {"deepseek_v2"};
constexpr absl::string_view kV2Architectures[] = {"DeepseekV2ForCausalLM"};

void ReadNetworks(ConfigReader& in, ModelSpec& spec) {
  ReadDenseFirst(in, spec);
  // transformers takes the second name for the first.
  ReadExperts(in, spec, {"n_routed_experts", "num_local_experts"}, "moe_intermediate_size");
  ReadSharedExperts(in, spec);
}

void ReadV3(ConfigReader& in, ModelSpec& spec) {
  ReadLatentAttention(in, spec);
  ReadNetworks(in, spec);
  ReadBiasedRouter(in, spec);
}

void ReadV32(ConfigReader& in, ModelSpec& spec) {
  ReadV3(in, spec);
  ReadIndexer(in, spec, RopeLayout::kHalfSplit);
}

void ReadV2(ConfigReader& in, ModelSpec& spec) {
  ReadLatentAttention(in, spec);
  ReadNetworks(in, spec);
  RouterSpec& router = spec.moe.router;
  const std::string scoring_func = in.String("scoring_func", "softmax");
  in.RequireOneOf("scoring_func", scoring_func, {"softmax"}, "scoring function");
  const std::string topk_method = in.String("topk_method", "greedy");
  in.RequireOneOf("topk_method", topk_method, {"greedy", "group_limited_greedy"}, "top-k method");
  if (topk_method == "group_limited_greedy") ReadGroups(in, spec);
  // The published code scales only what it does not normalise.
  const bool normalise = in.Bool("norm_topk_prob", false) && router.top_k > 1;
  const double scaling = in.Number("routed_scaling_factor", 1e-6, 1e6, 1);
  router.renormalise = normalise ? Renormalise::kYes : Renormalise::kNo;
  router.scaling = normalise ? 1.0f : static_cast<float>(scaling);
}

}  // namespace

const Family kDeepSeekV3 = {kV3Types, kV3Architectures, ReadV3};
const Family kDeepSeekV32 = {kV32Types, kV32Architectures, ReadV32};
const Family kDeepSeekV2 = {kV2Types, kV2Architectures, ReadV2};

}  // namespace tokenferry

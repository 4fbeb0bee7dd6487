// Mixtral 8x7B and 8x22B, and merges of dense models in their form.
#include "runtime/families/family.h"

namespace tokenferry {
namespace {

constexpr absl::string_view kTypes[] = {"mixtral"};
constexpr absl::string_view kArchitectures[] = {"MixtralForCausalLM"};

void Read(ConfigReader& in, ModelSpec& spec) {
  ReadGroupedAttention(in, spec);
  const int64_t window = in.Int("sliding_window", 1, kMaxSize, 0);
  if (window > 0) {
    for (LayerSpec& layer : spec.layers) layer.attention.keys = {KeyRange::Kind::kSliding, window};
  }
  AllLayersMoe(spec);
  ReadExperts(in, spec, {"num_local_experts", "num_experts"}, "intermediate_size");
  spec.moe.router.renormalise = Renormalise::kYes;
  NameLikeMixtral(spec);
}

}  // namespace

const Family kMixtral = {kTypes, kArchitectures, Read};

}  // namespace tokenferry

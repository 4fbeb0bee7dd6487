// Qwen1.5-MoE and Qwen2-57B-A14B (biases, a shared expert with a score of its own); Qwen3-MoE (norms of queries and
// keys).
#include "absl/strings/str_cat.h"
#include "runtime/families/family.h"

namespace tokenferry {
namespace {

constexpr absl::string_view kTypes2[] = {"qwen2_moe"};
constexpr absl::string_view kArchitectures2[] = {"Qwen2MoeForCausalLM"};
constexpr absl::string_view kTypes3[] = {"qwen3_moe"};
constexpr absl::string_view kArchitectures3[] = {"Qwen3MoeForCausalLM"};

// As transformers decides: of Qwen2's layers before max_window_layers every second has a window, if any is to have one,
// unless layer_types lists them; Qwen3's have one all or none, and a list must not say otherwise.
enum class Windows : uint8_t { kEverySecond, kAll };

void ReadWindows(ConfigReader& in, ModelSpec& spec, Windows windows) {
  const bool used = in.Bool("use_sliding_window", false);
  const int64_t window = in.Int("sliding_window", 0, kMaxSize, 0);
  const int64_t end = in.Int("max_window_layers", 0, kMaxSize, 28);
  const std::vector<std::string> types = ReadLayerTypes(in, spec, {"full_attention", "sliding_attention"});
  for (int64_t i = 0; i < spec.num_layers() && in.ok(); ++i) {
    const bool by_key = used && (windows == Windows::kAll || (i < end && i % 2 == 0));
    const bool slides = types.empty() ? by_key : types[i] == "sliding_attention";
    if (windows == Windows::kAll && slides != by_key) {
      in.Fail("layer_types", absl::StrCat("makes layer ", i, " ", types[i], ", but 'use_sliding_window' is ",
                                          used ? "true" : "false", ", which is for all layers alike"));
    }
    if (slides && window == 0) in.Fail("sliding_window", "is missing, but layers have sliding attention");
    if (slides) spec.layers[i].attention.keys = {KeyRange::Kind::kSliding, window};
  }
}

void ReadNetworks(ConfigReader& in, ModelSpec& spec) {
  ReadExperts(in, spec, {"num_experts", "num_local_experts"}, "moe_intermediate_size");
  spec.moe.router.renormalise = in.Bool("norm_topk_prob", false) ? Renormalise::kYes : Renormalise::kNo;
  ReadDenseLayers(in, spec);
}

void Read2(ConfigReader& in, ModelSpec& spec) {
  ReadGroupedAttention(in, spec);
  const bool bias = in.Bool("qkv_bias", true);
  for (LayerSpec& layer : spec.layers) layer.attention.has_qkv_bias = bias;
  ReadWindows(in, spec, Windows::kEverySecond);
  ReadNetworks(in, spec);
  ReadScoredSharedExpert(in, spec);
}

void Read3(ConfigReader& in, ModelSpec& spec) {
  ReadGroupedAttention(in, spec);
  const bool bias = in.Bool("attention_bias", false);
  for (LayerSpec& layer : spec.layers) {
    layer.attention.qk_norm = QkNorm::kHead;
    layer.attention.has_qkv_bias = layer.attention.has_o_bias = bias;
  }
  ReadWindows(in, spec, Windows::kAll);
  ReadNetworks(in, spec);
}

}  // namespace

const Family kQwen2Moe = {kTypes2, kArchitectures2, Read2};
const Family kQwen3Moe = {kTypes3, kArchitectures3, Read3};

}  // namespace tokenferry

// GLM-4.5 to 4.7 (grouped attention, half of each head turns), GLM-4.7-Flash (latent attention), and GLM-5 (sees the
// keys that an indexer selects, of its own layer or of one before); routers as DeepSeek-V3's.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "runtime/families/family.h"

namespace tokenferry {
namespace {

constexpr absl::string_view kTypes[] = {"glm4_moe"};
constexpr absl::string_view kArchitectures[] = {"Glm4MoeForCausalLM"};
constexpr absl::string_view kDsaTypes[] = {"glm_moe_dsa"};
constexpr absl::string_view kDsaArchitectures[] = {"GlmMoeDsaForCausalLM"};
constexpr absl::string_view kLiteTypes[] = {"glm4_moe_lite"};
constexpr absl::string_view kLiteArchitectures[] = {"Glm4MoeLiteForCausalLM"};

void ReadNetworks(ConfigReader& in, ModelSpec& spec) {
  ReadDenseFirst(in, spec);
  ReadExperts(in, spec, {"n_routed_experts", "num_local_experts", "num_experts"}, "moe_intermediate_size");
  ReadSharedExperts(in, spec);
  ReadBiasedRouter(in, spec);
}

void Read(ConfigReader& in, ModelSpec& spec) {
  ReadGroupedAttention(in, spec, {.partial_rotary_factor = 0.5});
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

// What a pattern's letters stand for.
std::vector<std::string> TypesOfPattern(ConfigReader& in, const std::string& pattern) {
  std::vector<std::string> types;
  for (const char letter : pattern) {
    if (letter != 'F' && letter != 'S') {
      in.Fail("index_topk_pattern", absl::StrCat("is '", pattern, "', which are not letters F and S alone"));
    }
    types.emplace_back(letter == 'F' ? "full" : "shared");
  }
  return types;
}

// Which layers have an indexer of their own: as indexer_types lists them, or the letters of index_topk_pattern, or
// layer i where index_topk_freq divides i - index_skip_topk_offset + 1 or this is negative.
std::vector<std::string> ReadIndexerTypes(ConfigReader& in, const ModelSpec& spec) {
  const std::string pattern = in.String("index_topk_pattern", "");
  const int64_t frequency = in.Int("index_topk_freq", 1, kMaxLayers, 1);
  const int64_t offset = in.Int("index_skip_topk_offset", 0, kMaxLayers, 2);
  const bool are_listed = in.Has("indexer_types");
  const char* const key = are_listed ? "indexer_types" : pattern.empty() ? "index_topk_freq" : "index_topk_pattern";
  std::vector<std::string> types = are_listed ? in.Strings("indexer_types") : TypesOfPattern(in, pattern);
  if (!are_listed && pattern.empty()) {
    for (int64_t i = 0; i < spec.num_layers(); ++i) {
      types.emplace_back(std::max<int64_t>(i - offset + 1, 0) % frequency == 0 ? "full" : "shared");
    }
  }
  if (types.size() != spec.layers.size()) {
    in.Fail(key, absl::StrCat("has ", types.size(), " entries for ", spec.num_layers(), " layers"));
  }
  for (const std::string& type : types) in.RequireOneOf(key, type, {"full", "shared"}, "indexer");
  if (in.ok() && types[0] != "full") in.Fail(key, "makes the first layer share what a layer before it has selected");
  return types;
}

void ReadDsa(ConfigReader& in, ModelSpec& spec) {
  ReadLite(in, spec);
  ReadIndexer(in, spec, RopeLayout::kInterleaved);
  const std::vector<std::string> types = ReadIndexerTypes(in, spec);
  if (!in.ok()) return;
  for (int64_t i = 0; i < spec.num_layers(); ++i) {
    if (types[i] == "shared") spec.layers[i].attention.indexer.kind = IndexerSpec::Kind::kShared;
  }
}

}  // namespace

const Family kGlmMoeDsa = {kDsaTypes, kDsaArchitectures, ReadDsa};
const Family kGlm4Moe = {kTypes, kArchitectures, Read};
const Family kGlm4MoeLite = {kLiteTypes, kLiteArchitectures, ReadLite};

}  // namespace tokenferry

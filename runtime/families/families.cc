#include "runtime/families/families.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "core/io/gguf.h"
#include "runtime/checkpoint/model_folder.h"
#include "runtime/families/family.h"
#include "runtime/families/gguf.h"
#include "runtime/model/tensor_plan.h"

namespace tokenferry {
namespace {

// All families. To add one: docs/add-a-model.md.
constexpr const Family* kFamilies[] = {&kDeepSeekV2, &kDeepSeekV3, &kDeepSeekV32, &kGlm4Moe,  &kGlm4MoeLite,
                                       &kGlmMoeDsa,  &kGptOss,     &kGraniteMoe,  &kLlama4,   &kMiniMaxM2,
                                       &kMixtral,    &kOlmoe,      &kPhiMoe,      &kQwen2Moe, &kQwen35Moe,
                                       &kQwen3Moe,   &kQwen3Next,  &kSwitch};

// Models that also read images: the text model is described by text_config, with a model_type of its own.
struct Wrapper {
  absl::string_view model_type, architecture;
  absl::string_view prefix;       // before the text model's names
  absl::string_view body;         // what its layers, embedding and last norm are below
  absl::string_view not_read[2];  // towers and projections of images
};
constexpr Wrapper kWrappers[] = {
    {"llama4",
     "Llama4ForConditionalGeneration",
     "language_model.",
     "model.",
     {"vision_model.", "multi_modal_projector."}},
    {"kimi_k25", "KimiK25ForConditionalGeneration", "language_model.", "model.", {"vision_tower.", "mm_projector."}},
    {"qwen3_5_moe", "Qwen3_5MoeForConditionalGeneration", "", "model.language_model.", {"model.visual."}},
};

// What such a file says of its text model in either of the two objects: in both the same, but for the tokens at the
// ends, which may be those of two uses (generation_config.json says what holds).
constexpr absl::string_view kSharedKeys[] = {"tie_word_embeddings", "dtype", "torch_dtype", "eos_token_id",
                                             "bos_token_id"};
constexpr absl::Span<const absl::string_view> kAgreedKeys(kSharedKeys, 3);

std::vector<absl::string_view> ModelTypes() {
  std::vector<absl::string_view> types;
  for (const Family* family : kFamilies) {
    types.insert(types.end(), family->model_types.begin(), family->model_types.end());
  }
  for (const Wrapper& wrapper : kWrappers) types.push_back(wrapper.model_type);
  return types;
}

// Null, with an error in the reader: not known.
const Family* FindFamily(ConfigReader& in) {
  const std::string type = in.String("model_type");
  for (const Family* family : kFamilies) {
    const auto& types = family->model_types;
    if (std::find(types.begin(), types.end(), type) != types.end()) return family;
  }
  in.RequireOneOf("model_type", type, ModelTypes(), "architecture");
  return nullptr;
}

void CheckArchitecture(ConfigReader& in, absl::Span<const absl::string_view> known) {
  const std::optional<JsonNode> architectures = in.Find("architectures");
  if (!in.ok() || !architectures) return;
  const nlohmann::json& list = architectures->value();
  if (!list.is_array() || list.size() != 1 || !list[0].is_string()) {
    in.Fail("architectures", "is not a list of one name");
    return;
  }
  in.RequireOneOf("architectures", list[0].get<std::string>(), known, "architecture");
}

// Where the files of the whole model have the text model's tensors.
void NameWithin(const Wrapper& wrapper, ModelSpec& spec) {
  spec.prefix = std::string(wrapper.prefix);
  if (wrapper.body != "model.") {
    spec.layer_prefix = absl::StrCat(wrapper.body, "layers.");
    spec.names[Role::kEmbedTokens] = absl::StrCat(wrapper.body, "embed_tokens.weight");
    spec.names[Role::kFinalNorm] = absl::StrCat(wrapper.body, "norm.weight");
  }
  for (const absl::string_view prefix : wrapper.not_read) {
    if (!prefix.empty()) spec.not_read.emplace_back(prefix);
  }
}

// `in` reads the object that describes the text model.
absl::Status ReadText(ConfigReader& in, ModelSpec& spec) {
  const Family* family = FindFamily(in);
  TF_RETURN_IF_ERROR(in.status());
  CheckArchitecture(in, family->architectures);
  ReadCommon(in, family->keys, spec);
  family->read(in, spec);
  return in.status();
}

absl::StatusOr<ModelSpec> SpecOf(const JsonDocument& document) {
  ConfigReader in(document.root());
  ModelSpec spec;
  spec.model_type = in.String("model_type");
  const auto* wrapper = std::find_if(std::begin(kWrappers), std::end(kWrappers),
                                     [&](const Wrapper& w) { return w.model_type == spec.model_type; });
  if (wrapper == std::end(kWrappers)) {
    TF_RETURN_IF_ERROR(ReadText(in, spec));
  } else {
    CheckArchitecture(in, {wrapper->architecture});
    const std::optional<JsonNode> text = in.Object("text_config");
    if (!text) in.Fail("text_config", "is missing");
    TF_RETURN_IF_ERROR(in.status());
    ConfigReader nested(*text, document.root(), kSharedKeys), alone(*text);
    for (const absl::string_view key : kAgreedKeys) {
      const std::optional<JsonNode> outer = in.Find(key), own = alone.Find(key);
      if (outer && own) TF_RETURN_IF_ERROR(CheckSame(*outer, *own));
    }
    TF_RETURN_IF_ERROR(ReadText(nested, spec));
    NameWithin(*wrapper, spec);
  }
  TF_RETURN_IF_ERROR(ReadQuantization(in, spec));
  // Quantised files have experts one by one, where their headers do not say otherwise.
  if (spec.quant.is_quantised() && spec.fused_instead == FusedExperts::kNone)
    return WithExpertsInstead(std::move(spec));
  return spec;
}

absl::StatusOr<ModelSpec> LoadGgufSpec(const std::string& path) {
  TF_ASSIGN_OR_RETURN(const Checkpoint checkpoint, Checkpoint::Open(path));
  const JsonNode metadata = checkpoint.gguf_metadata().root();
  TF_ASSIGN_OR_RETURN(const JsonDocument config, ConfigOfGguf(metadata, checkpoint));
  TF_ASSIGN_OR_RETURN(ModelSpec spec, SpecOf(config));
  NameLikeGguf(metadata, checkpoint, spec);
  TF_RETURN_IF_ERROR(ReadRopeFactors(metadata, checkpoint, spec));
  return spec;
}

}  // namespace

absl::StatusOr<ModelSpec> ParseModelSpec(absl::string_view text, absl::string_view name) {
  TF_ASSIGN_OR_RETURN(const JsonDocument document, JsonDocument::Parse(std::string(text), name, kConfigLimits));
  return SpecOf(document);
}

absl::StatusOr<ModelSpec> LoadModelSpec(const std::string& model_dir) {
  if (IsGgufPath(model_dir)) return LoadGgufSpec(model_dir);
  TF_RETURN_IF_ERROR(CheckModelFolder(model_dir));
  TF_ASSIGN_OR_RETURN(const JsonDocument document,
                      JsonDocument::ReadFile(absl::StrCat(model_dir, "/config.json"), kConfigLimits));
  return SpecOf(document);
}

}  // namespace tokenferry

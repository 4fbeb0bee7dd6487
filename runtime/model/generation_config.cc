#include "runtime/model/generation_config.h"

#include <algorithm>
#include <limits>
#include <nlohmann/json.hpp>

#include "absl/strings/str_join.h"
#include "core/io/gguf.h"
#include "core/io/json.h"
#include "runtime/model/config_reader.h"

namespace tokenferry {
namespace {

// transformers writes defaults into files.
bool ChangesNothing(absl::string_view key, const nlohmann::json& value) {
  return value.empty() || value == (key == "typical_p" ? 1 : 0);
}

absl::StatusOr<GenerationConfig> GenerationConfigOf(const JsonDocument& document, const ModelSpec& model) {
  ConfigReader in(document.root());
  GenerationConfig config;
  config.eos_token_ids = in.Has("eos_token_id") ? ReadEndTokens(in, model.vocab_size) : model.eos_token_ids;
  constexpr double kMaxTemperature = 100, kMinPenalty = 0.01, kMaxPenalty = 100;
  if (in.Has("do_sample")) config.do_sample = in.Bool("do_sample");
  if (in.Has("temperature")) config.temperature = in.Number("temperature", 0, kMaxTemperature);
  if (in.Has("top_p")) config.top_p = in.Number("top_p", 0, 1);
  if (in.Has("min_p")) config.min_p = in.Number("min_p", 0, 1);
  if (in.Has("top_k")) {
    const int64_t top_k = in.Int("top_k", -1, std::numeric_limits<int32_t>::max());
    config.top_k = static_cast<int32_t>(std::max<int64_t>(top_k, 0));
  }
  if (in.Has("repetition_penalty")) {
    config.repetition_penalty = in.Number("repetition_penalty", kMinPenalty, kMaxPenalty);
  }
  if (in.Has("max_new_tokens")) {
    config.max_new_tokens = in.Int("max_new_tokens", 1, std::numeric_limits<int32_t>::max());
  }
  for (const absl::string_view key :
       {"suppress_tokens", "begin_suppress_tokens", "bad_words_ids", "sequence_bias", "no_repeat_ngram_size",
        "min_length", "min_new_tokens", "typical_p", "epsilon_cutoff", "eta_cutoff", "stop_strings"}) {
    const std::optional<JsonNode> value = in.Find(key);
    if (value && !value->is_null() && !ChangesNothing(key, value->value())) config.ignored.emplace_back(key);
  }
  TF_RETURN_IF_ERROR(in.status());
  return config;
}

}  // namespace

absl::StatusOr<GenerationConfig> ParseGenerationConfig(absl::string_view text, absl::string_view name,
                                                       const ModelSpec& model) {
  TF_ASSIGN_OR_RETURN(const JsonDocument document, JsonDocument::Parse(std::string(text), name, kConfigLimits));
  return GenerationConfigOf(document, model);
}

std::string WarningOf(const GenerationConfig& config) {
  if (config.ignored.empty()) return "";
  return absl::StrCat("generation_config.json sets ", absl::StrJoin(config.ignored, ", "), ", which ",
                      config.ignored.size() == 1 ? "is" : "are", " ignored");
}

absl::StatusOr<GenerationConfig> LoadGenerationConfig(const std::string& model_dir, const ModelSpec& model) {
  if (IsGgufPath(model_dir)) return GenerationConfig{.eos_token_ids = model.eos_token_ids};
  const std::string path = absl::StrCat(model_dir, "/generation_config.json");
  const absl::StatusOr<JsonDocument> document = JsonDocument::ReadFile(path, kConfigLimits);
  if (absl::IsNotFound(document.status())) return GenerationConfig{.eos_token_ids = model.eos_token_ids};
  TF_RETURN_IF_ERROR(document.status());
  return GenerationConfigOf(*document, model);
}

}  // namespace tokenferry

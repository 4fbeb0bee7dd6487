#include "runtime/model/generation_config.h"

#include <unistd.h>

#include "core/io/json.h"
#include "runtime/model/config_reader.h"

namespace tokenferry {
namespace {

absl::StatusOr<GenerationConfig> GenerationConfigOf(const JsonDocument& document, const ModelSpec& model) {
  ConfigReader in(document.root());
  GenerationConfig config;
  config.eos_token_ids = in.Has("eos_token_id") ? ReadEndTokens(in, model.vocab_size) : model.eos_token_ids;
  if (in.Has("temperature")) config.temperature = in.Number("temperature", 0, 100);
  if (in.Has("top_p")) config.top_p = in.Number("top_p", 0, 1);
  TF_RETURN_IF_ERROR(in.status());
  return config;
}

}  // namespace

absl::StatusOr<GenerationConfig> ParseGenerationConfig(absl::string_view text, absl::string_view name,
                                                       const ModelSpec& model) {
  TF_ASSIGN_OR_RETURN(const JsonDocument document, JsonDocument::Parse(std::string(text), name, kConfigLimits));
  return GenerationConfigOf(document, model);
}

absl::StatusOr<GenerationConfig> LoadGenerationConfig(const std::string& model_dir, const ModelSpec& model) {
  const std::string path = absl::StrCat(model_dir, "/generation_config.json");
  if (access(path.c_str(), F_OK) != 0) return GenerationConfig{.eos_token_ids = model.eos_token_ids};
  TF_ASSIGN_OR_RETURN(const JsonDocument document, JsonDocument::ReadFile(path, kConfigLimits));
  return GenerationConfigOf(document, model);
}

}  // namespace tokenferry

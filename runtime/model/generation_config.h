// generation_config.json: what a text generation starts from when the request does not say otherwise.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "core/status.h"
#include "runtime/model/model_spec.h"

namespace tokenferry {

struct GenerationConfig {
  std::vector<int32_t> eos_token_ids;  // generation_config.json's, or else config.json's
  std::optional<double> temperature;   // >= 0
  std::optional<double> top_p;         // [0, 1]; 0 is said by some files and means the likeliest token alone
};

absl::StatusOr<GenerationConfig> ParseGenerationConfig(absl::string_view text, absl::string_view name,
                                                       const ModelSpec& model);
// Without a generation_config.json: config.json's end tokens and nothing else.
absl::StatusOr<GenerationConfig> LoadGenerationConfig(const std::string& model_dir, const ModelSpec& model);

}  // namespace tokenferry

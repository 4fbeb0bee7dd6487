// generation_config.json: what a text generation starts from when the request does not say otherwise.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "core/status.h"
#include "runtime/model/model_spec.h"

namespace tokenferry {

// What the file says; none where it says nothing. Values that transformers would assume are not filled in.
struct GenerationConfig {
  std::vector<int32_t> eos_token_ids;        // generation_config.json's, or else config.json's
  std::optional<bool> do_sample;             // false, as without it: the likeliest token, whatever the others say
  std::optional<double> temperature;         // >= 0
  std::optional<double> top_p;               // [0, 1]; 0 is said by some files and means the likeliest token alone
  std::optional<double> min_p;               // [0, 1]
  std::optional<int32_t> top_k;              // 0: all tokens; -1 in the file means the same
  std::optional<double> repetition_penalty;  // > 0
  std::optional<int64_t> max_new_tokens;     // > 0; `inspect` shows it, but an answer is as long as its request says
  // Keys that are set, would change answers and are not done: suppress_tokens, min_new_tokens, ..
  std::vector<std::string> ignored;
};

// Other keys are passed over: they are for other ways to search, or for training.
absl::StatusOr<GenerationConfig> ParseGenerationConfig(absl::string_view text, absl::string_view name,
                                                       const ModelSpec& model);
// "generation_config.json sets typical_p, which is ignored"; empty: nothing is.
std::string WarningOf(const GenerationConfig& config);
// Without a generation_config.json, as GGUF files are: the model's end tokens and nothing else.
absl::StatusOr<GenerationConfig> LoadGenerationConfig(const std::string& model_dir, const ModelSpec& model);

}  // namespace tokenferry

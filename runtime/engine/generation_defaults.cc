#include "runtime/engine/generation_defaults.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace tokenferry {

SamplingParams DefaultSampling(const GenerationConfig& config) {
  SamplingParams params;
  params.repetition_penalty = config.repetition_penalty.value_or(params.repetition_penalty);
  if (!config.do_sample.value_or(false)) return params;
  const double temperature = config.temperature.value_or(1);
  const double top_p = config.top_p.value_or(params.top_p);
  if (temperature < kMinTemperature || top_p < kMinTopP) return params;  // both mean the likeliest token
  params.temperature = temperature;
  params.top_p = top_p;
  params.top_k = config.top_k.value_or(params.top_k);
  params.min_p = config.min_p.value_or(params.min_p);
  return params;
}

std::string Describe(const GenerationConfig& config) {
  const SamplingParams params = DefaultSampling(config);
  std::string text =
      params.temperature == 0 ? "the likeliest token" : absl::StrCat("sampled at temperature ", params.temperature);
  if (params.top_p < 1) absl::StrAppend(&text, ", top-p ", params.top_p);
  if (params.top_k > 0) absl::StrAppend(&text, ", top-k ", params.top_k);
  if (params.min_p > 0) absl::StrAppend(&text, ", min-p ", params.min_p);
  if (params.repetition_penalty != 1) absl::StrAppend(&text, ", repetition penalty ", params.repetition_penalty);
  const size_t num_ends = config.eos_token_ids.size();
  if (num_ends > 0) {
    absl::StrAppend(&text, "; ends at token", num_ends > 1 ? "s " : " ", absl::StrJoin(config.eos_token_ids, ", "));
  }
  return text;
}

}  // namespace tokenferry

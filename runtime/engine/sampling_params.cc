#include "runtime/engine/sampling_params.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_format.h"
#include "runtime/engine/byte_automaton.h"

namespace tokenferry {
namespace {

absl::Status RangeError(absl::string_view name, double value, absl::string_view range) {
  return absl::InvalidArgumentError(absl::StrFormat("%s is %g, but must be %s", name, value, range));
}

// Written as "in range", so that NaN is refused; and a denormal number is in no range but as 0.
bool Within(double v, double low, double high) { return v >= low && v <= high && (v == 0 || std::isnormal(v)); }

absl::Status CheckWithin(absl::string_view name, double v, double low, double high) {
  if (Within(v, low, high)) return absl::OkStatus();
  return RangeError(name, v, absl::StrCat("from ", low, " to ", high));
}

absl::Status CheckCount(absl::string_view name, int64_t count, int64_t most) {
  if (count >= 0 && count <= most) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(name, " is ", count, ", but must be from 0 to ", most));
}

}  // namespace

absl::Status CheckToken(absl::string_view where, int32_t token, int64_t vocab_size) {
  if (token >= 0 && token < vocab_size) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(where, " has token ", token, ", but the model's tokens are 0 to ", vocab_size - 1));
}

absl::Status Validate(const SamplingParams& p) {
  if (p.temperature != 0 && !Within(p.temperature, kMinTemperature, kMaxTemperature)) {
    return RangeError("temperature", p.temperature,
                      absl::StrCat("0, or from ", kMinTemperature, " to ", kMaxTemperature));
  }
  if (p.top_k < 0) return RangeError("top-k", p.top_k, "0 (all tokens) or more");
  TF_RETURN_IF_ERROR(CheckWithin("top-p", p.top_p, kMinTopP, 1));
  TF_RETURN_IF_ERROR(CheckWithin("min-p", p.min_p, 0, 1));
  TF_RETURN_IF_ERROR(
      CheckWithin("repetition-penalty", p.repetition_penalty, kMinRepetitionPenalty, kMaxRepetitionPenalty));
  TF_RETURN_IF_ERROR(CheckWithin("presence-penalty", p.presence_penalty, -kMaxPresencePenalty, kMaxPresencePenalty));
  TF_RETURN_IF_ERROR(
      CheckWithin("frequency-penalty", p.frequency_penalty, -kMaxFrequencyPenalty, kMaxFrequencyPenalty));
  TF_RETURN_IF_ERROR(
      CheckCount("the number of logit biases", static_cast<int64_t>(p.logit_bias.size()), kMaxLogitBiases));
  std::vector<int32_t> biased;
  for (const LogitBias& b : p.logit_bias) {
    TF_RETURN_IF_ERROR(
        CheckWithin(absl::StrCat("logit-bias of token ", b.token), b.bias, -kMaxLogitBias, kMaxLogitBias));
    biased.push_back(b.token);
  }
  std::sort(biased.begin(), biased.end());
  if (const auto twice = std::adjacent_find(biased.begin(), biased.end()); twice != biased.end()) {
    return absl::InvalidArgumentError(absl::StrCat("logit-bias has token ", *twice, " twice"));
  }
  TF_RETURN_IF_ERROR(
      CheckCount("the number of stop tokens", static_cast<int64_t>(p.stop_token_ids.size()), kMaxStopTokens));
  if (p.min_tokens < 0) return RangeError("min-tokens", static_cast<double>(p.min_tokens), "0 or more");
  TF_RETURN_IF_ERROR(CheckCount("top-logprobs", p.num_top_logprobs, kMaxTopLogprobs));
  return p.grammar.empty() ? absl::OkStatus() : DecodeAutomaton(p.grammar).status();
}

absl::Status ValidateTokens(const SamplingParams& p, int64_t vocab_size) {
  for (const LogitBias& b : p.logit_bias) TF_RETURN_IF_ERROR(CheckToken("logit-bias", b.token, vocab_size));
  for (const int32_t token : p.stop_token_ids) TF_RETURN_IF_ERROR(CheckToken("stop-token-ids", token, vocab_size));
  return absl::OkStatus();
}

}  // namespace tokenferry

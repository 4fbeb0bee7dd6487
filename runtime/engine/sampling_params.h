// How a sequence's next token is to be chosen. A value that travels with the sequence.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "core/status.h"

namespace tokenferry {

// Added to a token's logit.
struct LogitBias {
  int32_t token = 0;
  double bias = 0;
};

struct SamplingParams {
  double temperature = 0;         // 0: greedy
  int32_t top_k = 0;              // 0: all
  double top_p = 1.0;             // at most 1
  double min_p = 0.0;             // at most 1: drops tokens less likely than min_p times the likeliest
  double repetition_penalty = 1;  // divides positive, multiplies negative logits of tokens in prompt or output (CTRL)
  double presence_penalty = 0;    // subtracted from logits of tokens in the output (OpenAI)
  double frequency_penalty = 0;   // the same, once for every time that the token is in the output (OpenAI)
  uint64_t seed = 0;
  std::vector<LogitBias> logit_bias;  // each token once
  // Tokens that end the sequence: the last one is part of the output. None is chosen before min_tokens have been.
  std::vector<int32_t> stop_token_ids;
  int64_t min_tokens = 0;
  int32_t num_top_logprobs = 0;  // likeliest tokens to report with every token
  // An encoded ByteAutomaton (byte_automaton.h): what the output has to be, as bytes; stop_token_ids where it may end,
  // and only there. Empty: anything.
  std::string grammar;
};

// Whether sampling looks at the tokens so far.
inline bool UsesCounts(const SamplingParams& p) {
  return p.repetition_penalty != 1 || p.presence_penalty != 0 || p.frequency_penalty != 0;
}

// The smallest values that can be meant. Below, a parameter is a slip (1e-308) or would make infinities of logits.
inline constexpr double kMinTemperature = 1e-5;  // and 0; odds of tokens whose logits differ by 0.01 are e^1000 here
inline constexpr double kMinTopP = 1e-9;
inline constexpr double kMinRepetitionPenalty = 0.01;
// The largest.
inline constexpr double kMaxTemperature = 100, kMaxRepetitionPenalty = 100, kMaxPresencePenalty = 100;
inline constexpr double kMaxFrequencyPenalty = 100, kMaxLogitBias = 100;
inline constexpr int kMaxLogitBiases = 1024, kMaxTopLogprobs = 20, kMaxStopTokens = 1024;

// InvalidArgument naming the parameter, its value and its range. Refuses NaN, infinities and denormal numbers too.
absl::Status Validate(const SamplingParams& params);
// InvalidArgument, "the prompt has token ..", for one that is not from 0 to vocab_size - 1.
absl::Status CheckToken(absl::string_view where, int32_t token, int64_t vocab_size);
// Validate for what depends on the model: CheckToken of every token.
absl::Status ValidateTokens(const SamplingParams& params, int64_t vocab_size);

// For core/io/archive.h. A field that is forgotten here does not compile.
template <class Archive>
void Fields(Archive& a, LogitBias& b) {
  auto& [token, bias] = b;
  a(token), a(bias);
}
template <class Archive>
void Fields(Archive& a, SamplingParams& p) {
  auto& [temperature, top_k, top_p, min_p, repetition_penalty, presence_penalty, frequency_penalty, seed, logit_bias,
         stop_token_ids, min_tokens, num_top_logprobs, grammar] = p;
  a(temperature), a(top_k), a(top_p), a(min_p), a(repetition_penalty), a(presence_penalty), a(frequency_penalty);
  a(seed), a(logit_bias), a(stop_token_ids), a(min_tokens), a(num_top_logprobs), a(grammar);
}

}  // namespace tokenferry

// Choosing the next token from logits. Host code; the same on every machine and for any number of ranks: the random
// number of a token depends only on (seed, position).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/types/span.h"
#include "core/status.h"

namespace tokenferry {

struct SamplingParams {
  double temperature = 0;         // 0: greedy
  int32_t top_k = 0;              // 0: all
  double top_p = 1.0;             // at most 1
  double min_p = 0.0;             // at most 1: drops tokens less likely than min_p times the likeliest
  double repetition_penalty = 1;  // divides positive, multiplies negative logits of tokens in prompt or output (CTRL)
  double presence_penalty = 0;    // subtracted from logits of tokens in the output (OpenAI)
  uint64_t seed = 0;
};

// The smallest values that can be meant. Below, a parameter is a slip (1e-308) or would make infinities of logits.
inline constexpr double kMinTemperature = 1e-5;  // and 0; odds of tokens whose logits differ by 0.01 are e^1000 here
inline constexpr double kMinTopP = 1e-9;
inline constexpr double kMinRepetitionPenalty = 0.01;
// The largest.
inline constexpr double kMaxTemperature = 100, kMaxRepetitionPenalty = 100, kMaxPresencePenalty = 100;

// InvalidArgument naming the parameter, its value and its range. Refuses NaN, infinities and denormal numbers too.
absl::Status Validate(const SamplingParams& params);

// The parameters that are set but mean nothing at temperature 0, as flags are spelled: "top-p", "seed". Empty at other
// temperatures.
std::vector<std::string> UnusedParams(const SamplingParams& params);

// What the penalties look at.
struct TokenHistory {
  std::vector<int32_t> tokens;  // prompt, then output
  int64_t num_prompt_tokens = 0;
};

struct SampledToken {
  int32_t token = -1;
  float logprob = 0;  // natural log of the token's softmax probability over the raw logits
};

// Order: penalties, temperature, top-k, top-p, min-p (transformers' order), then one draw. `position` is the position
// of the new token in its sequence. Greedy takes the largest logit, ties to the lower id. Internal when a logit is NaN
// or +infinity, or all are -infinity.
absl::StatusOr<SampledToken> Sample(absl::Span<const float> logits, const SamplingParams& params,
                                    const TokenHistory& history, int64_t position);

// Uniform in [0, 1): a pure function of its arguments (splitmix64 finaliser over seed and counter).
double CounterUniform(uint64_t seed, uint64_t counter);

// Natural log of sum(exp(logits)), in double.
double LogSumExp(absl::Span<const float> logits);

}  // namespace tokenferry

// Choosing the next token from logits, scoring and comparing. Host code; the same on every machine and for any number
// of ranks: the random number of a token depends only on (seed, position).
#pragma once

#include <cstdint>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/types/span.h"
#include "core/status.h"
#include "runtime/engine/sampler_kernels.h"
#include "runtime/engine/sampling_params.h"
#include "runtime/engine/token_order.h"
#include "runtime/ops/scan_logits.h"

namespace tokenferry {

// What the penalties look at: how often each token of a sequence is in its output.
class TokenCounts {
 public:
  void AddPrompt(absl::Span<const int32_t> tokens) {
    for (const int32_t token : tokens) num_in_output_.try_emplace(token, 0);
  }
  void AddOutput(int32_t token) { num_in_output_[token] += 1; }
  // Every token of prompt and output; 0: in the prompt alone.
  const absl::flat_hash_map<int32_t, int32_t>& num_in_output() const { return num_in_output_; }

 private:
  absl::flat_hash_map<int32_t, int32_t> num_in_output_;
};

struct TokenLogprob {
  int32_t token = -1;
  float logprob = 0;
};

struct SampledToken {
  int32_t token = -1;
  float logprob = 0;  // natural log of the token's softmax probability over the raw logits
  std::vector<TokenLogprob>
      top;  // SamplingParams::num_top_logprobs likeliest over the raw logits, ties to the lower id
};

// Where a sequence stands.
struct SamplingState {
  const TokenCounts* counts = nullptr;      // null: no token yet
  int64_t position = 0;                     // of the new token in its sequence
  int64_t num_generated = 0;                // tokens of the output so far
  absl::Span<const uint64_t> allowed = {};  // bit i of word i / 64: token i may come next; empty: all may
};

// Keeps scratch memory of a vocabulary's size from token to token; one per thread.
class Sampler {
 public:
  Sampler();

  // Order: allowed tokens and min_tokens, logit_bias, penalties (repetition, then presence and frequency), temperature,
  // top-k, top-p, min-p (transformers' order), then one draw. Greedy takes the largest logit, ties to the lower id.
  // Internal when a logit is NaN or +infinity, or all are -infinity; FailedPrecondition when no token is left to
  // choose. Tokens in `params` and in the counts that are not in the vocabulary are passed over.
  absl::StatusOr<SampledToken> Sample(absl::Span<const float> logits, const SamplingParams& params,
                                      const SamplingState& state);

  // The same token and numbers, bit for bit, from what a device has found out about the logits: a summary with
  // NumCandidates(params, state) candidates, of which there is at least one.
  absl::StatusOr<SampledToken> Sample(const LogitSummary& summary, const SamplingParams& params,
                                      const SamplingState& state);
  // 1 to kMaxLogitCandidates; 0: no summary will do, since tokens that are not among the likeliest may be chosen.
  static int NumCandidates(const SamplingParams& params, const SamplingState& state);

  // Natural log of sum(exp(logits)), in double, for the token at `position`. The order of the sum is SumInChains'.
  // Internal as for Sample.
  absl::StatusOr<double> LogSumExp(absl::Span<const float> logits, int64_t position);

  // Kullback-Leibler divergence of softmax(other) from softmax(logits), in nats: what is lost by coding the tokens of
  // `logits` as `other` would. The sum over i of p_i * (ln p_i - ln q_i), in double; 0 where p_i is 0. Each comes with
  // its LogSumExp and has the same size. Exactly 0 of equal logits, and never below.
  double Divergence(absl::Span<const float> logits, double log_sum_exp, absl::Span<const float> other,
                    double other_log_sum_exp);

 private:
  absl::Status Widen(absl::Span<const float> logits, int64_t position);
  void Adjust(const SamplingParams& params, const SamplingState& state);
  int32_t Draw(const SamplingParams& params, double uniform);

  const SamplerKernels& kernels_;
  // [V]; of LogSumExp: the logits, and exp(logit - largest_).
  std::vector<double> scores_, relative_;
  double largest_ = 0;  // of the raw logits
  TokenOrder order_;
};

// Uniform in [0, 1): a pure function of its arguments (splitmix64 finaliser over seed and counter).
double CounterUniform(uint64_t seed, uint64_t counter);

// The `count` largest logits, ties to the lower id, less `log_sum_exp`.
std::vector<TokenLogprob> Likeliest(absl::Span<const float> logits, int count, double log_sum_exp);

}  // namespace tokenferry

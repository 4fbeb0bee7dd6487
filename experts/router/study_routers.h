// Routers that no family of models asks for: to study what they make an exchange carry, and for engines built on this
// library. CPUs only: a GPU refuses them by name.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "core/device/device.h"
#include "core/moe/moe_types.h"

namespace tokenferry {

// Noisy top-k gating (Shazeer et al., arXiv:1701.06538, equation 4), before Route with Scoring::kSoftmaxOfChosen:
// logits[t, e] += z * softplus(noise_logits[t, e]), computed in double and rounded once, where z is a standard normal
// number that depends on seed, first_token + t and e alone: ranks and batches change nothing. It is meant for training;
// without the call the router is the paper's at inference.
struct AddGateNoiseArgs {
  MatrixView<float> logits;              // [T, E], in and out
  MatrixView<const float> noise_logits;  // [T, E] x times the paper's W_noise
  uint64_t seed = 0;
  int64_t first_token = 0;
};
void AddGateNoise(Stream& stream, const AddGateNoiseArgs& args);

// Expert choice (Zhou et al., arXiv:2202.09368): with S the softmax of every token's logits over the experts, each
// expert takes the `capacity` tokens with the largest S[t, e], equal ones by the lower index; a token may get none or
// all. Weights are S, not renormalised. out: a token's experts in increasing order and -1 behind them; it must have
// room for all, E columns. Who is chosen depends on all tokens of the call, so no text can be generated with it: tokens
// of one sequence would be chosen in view of those that follow. A token with a NaN among its scores is chosen by
// nobody and marked in bad_tokens, as in RouteArgs.
struct ExpertChoiceArgs {
  MatrixView<const float> logits;  // [T, E]
  int64_t capacity = 0;            // tokens of each expert; more than T: all of them
  Routing out;                     // [T, E]
  uint8_t* bad_tokens = nullptr;   // [T]
};
void ExpertChoice(Stream& stream, const ExpertChoiceArgs& args);
// Tokens of each expert when tokens have `top_k` experts on average: ceil(num_tokens * top_k / num_experts).
int64_t ExpertChoiceCapacity(int64_t num_tokens, int32_t top_k, int64_t num_experts);

// Hash layers (Roller et al., arXiv:2106.04426): a token's id alone says where it goes, out[t] = table[ids[t]] with
// weight 1; there are no scores.
struct HashRouteArgs {
  const int32_t* ids = nullptr;    // [T], each in [0, vocabulary)
  const int32_t* table = nullptr;  // [vocabulary] expert of each id
  Routing out;                     // [T, 1]
};
void HashRoute(Stream& stream, const HashRouteArgs& args);
// The paper's balanced table: ids by falling count, equal ones by the lower id, each to the expert with the smallest
// sum of counts so far, of equal ones to the one with fewer ids, then with the lower index. Host only. num_experts
// >= 1.
std::vector<int32_t> BalancedHashTable(absl::Span<const int64_t> count_per_id, int num_experts);

}  // namespace tokenferry

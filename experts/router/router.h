// Routers: which experts a token goes to, and with what weight. Formulas: DeepSeek-V3 report (noaux_tc), Mixtral, Qwen,
// Phi-3.5-MoE (sparsemixer).
#pragma once

#include "core/device/device.h"
#include "core/moe/moe_types.h"
#include "core/moe/router_spec.h"

namespace tokenferry {

// Scores s = scoring(logits); ChoosesByLogits: s = logits. Choice c = s + bias (bias null: s). With num_groups > 1
// only experts of the `groups_kept` groups with the largest group score over c stay; of those the top_k largest c are
// chosen. Weights are the unbiased s; kSoftmaxOfChosen (no bias, no groups): exp(l - the largest l) of those chosen by
// their sum; kSparseMixer (no bias, no groups): 1 / the sum, in matmul.h's lane order, of exp(l - the k-th choice's l)
// over all experts that StaysInMix leaves it, the second choice's without the first choice; renormalised if asked, then
// times `scaling`. All ties go to the lower index. A token whose scores are NaN (a logit or a bias is, or an infinite
// one makes it so) chooses nothing: its selections are all -1, with weight 0, and it is marked in bad_tokens.
struct RouteArgs : RouterSpec {
  MatrixView<const float> logits;  // [T, E]
  const float* bias = nullptr;     // [E], or null
  Routing out;                     // [T, top_k], sorted by falling choice c, ties by lower index
  // [T, E] c of every expert, -infinity for those of groups that were not kept and of tokens that choose nothing; data
  // null: not wanted.
  MatrixView<float> choice = {};
  uint8_t* bad_tokens = nullptr;  // [T] 1 is written for those; the others' stay, so that several layers may share it
  const int32_t* position = nullptr;  // [T] negative: no token, which chooses nothing and is not bad; null: all are
};

void Route(Stream& stream, const RouteArgs& args);

}  // namespace tokenferry

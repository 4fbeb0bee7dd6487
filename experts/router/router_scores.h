// The scores of one token's experts. Internal to the router.
#pragma once

#include <cstdint>

#include "core/host/isa.h"
#include "experts/router/router.h"

namespace tokenferry {

// scores[e] for e in [0, num_experts), f32 throughout, with core/kernels/exp.h:
//  softmax: exp(l - max l) / sum, the sum in core/kernels/matmul.h's lane order; sigmoid: 1 / (1 + exp(-l)).
// The same bits on every instruction set, as long as no logit is NaN.
using ScoreFn = void (*)(Scoring scoring, const float* logits, int64_t num_experts, float* scores);

void PlainScores(Scoring scoring, const float* logits, int64_t num_experts, float* scores);
ScoreFn ScoresFor(Isa isa);

}  // namespace tokenferry

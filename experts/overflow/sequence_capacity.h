// Capacity per sequence, as Switch Transformers have it at inference: of each sequence an expert takes the first so
// many selections. Pure host function over the tokens of one rank.
#pragma once

#include <cstdint>
#include <vector>

#include "core/moe/moe_types.h"

namespace tokenferry {

// Whose tokens those of a step are, and what is known of their sequences' earlier tokens. Host memory.
struct SequenceTokens {
  std::vector<int32_t> seq;          // [T] index into `selections`; a sequence's tokens are in their order
  std::vector<int32_t*> selections;  // by sequence: [layers, E] selections of its tokens so far, dropped ones included
};

// Drops from `expert_idx` and `weight` [T, top_k] of tokens [first, first + T) of `tokens`, in place, the selections
// beyond `capacity` of an expert by a sequence (expert -1, weight 0), and counts all of them in row `layer` of the
// sequence. So the outcome is that of the whole sequence at once, however it is cut into steps. Token by token, within
// a token slot by slot.
void ApplySequenceCapacity(int64_t capacity, const SequenceTokens& tokens, int64_t first, int64_t layer,
                           int64_t num_experts, MatrixView<int32_t> expert_idx, MatrixView<float> weight);

}  // namespace tokenferry

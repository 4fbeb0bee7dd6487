#include "experts/overflow/sequence_capacity.h"

#include "core/check.h"

namespace tokenferry {

void ApplySequenceCapacity(int64_t capacity, const SequenceTokens& tokens, int64_t first, int64_t layer,
                           int64_t num_experts, MatrixView<int32_t> expert_idx, MatrixView<float> weight) {
  TF_CHECK_LE(first + expert_idx.rows, static_cast<int64_t>(tokens.seq.size()));
  for (int64_t t = 0; t < expert_idx.rows; ++t) {
    int32_t* const taken = tokens.selections[tokens.seq[first + t]] + layer * num_experts;
    for (int64_t k = 0; k < expert_idx.cols; ++k) {
      int32_t& expert = expert_idx.row(t)[k];
      if (expert < 0 || taken[expert]++ < capacity) continue;
      expert = -1;
      weight.row(t)[k] = 0.0f;
    }
  }
}

}  // namespace tokenferry

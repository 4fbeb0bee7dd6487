// The indexer of sparse attention (DeepSeek-V3.2): small heads of its own score all keys, and a token's attention sees
// those with the largest scores.
#pragma once

#include "core/device/device.h"
#include "core/formats/tensor.h"
#include "runtime/attention/attention_ops.h"

namespace tokenferry {

// selected[t, :] = the positions j, of 0 .. position[t], with the num_selected largest scores, of equal ones the lower
// position; in increasing order, -1 behind the last. A token at a position below num_selected sees all keys, and
// nothing is scored for it.
//   score(j) = sum_h (weight[t, h] * heads^-0.5) * max(q[t, h] . key_j * dim^-0.5, 0)
// Dot products are in core/kernels/matmul.h's lane order, the sum is one fma chain over h = 0, 1, .., from +0. In kBF16
// queries are rounded to bf16 before the dot products. A score that is NaN is below all others.
struct SelectKeysArgs {
  const float* q = nullptr;       // [T, heads, dim], rotated
  const float* weight = nullptr;  // [T, heads]
  int32_t heads = 0;
  int64_t num_selected = 0;
  TokenPositions tokens;
  CacheView keys;               // rows of `first` = dim values, rotated, and no second part
  int32_t* selected = nullptr;  // [T, num_selected]
  Compute compute = Compute::kF32;
  // [at least 1, at least the largest position + 1], where a GPU keeps scores on their way; stride as cols. The more
  // rows, the more tokens at once. CPUs need none.
  MatrixView<float> scores = {};
};
void SelectKeys(Stream& stream, const SelectKeysArgs& args);

}  // namespace tokenferry

// What one row value and one weight are worth in a product (core/kernels/matmul.h), one at a time: the meaning that the
// reference uses throughout and the fast kernels at odd ends.
#pragma once

#include "core/kernels/matmul.h"

namespace tokenferry {

inline float RoundToBF16(float x) { return ToFloat(ToBF16(x)); }

// Value `i` of a row of `dtype`.
inline float RowValue(const void* row, DType dtype, int64_t i, Compute compute) {
  if (dtype == DType::kBF16) return ToFloat(static_cast<const BF16*>(row)[i]);
  const float x = static_cast<const float*>(row)[i];
  return compute == Compute::kBF16 ? RoundToBF16(x) : x;
}

inline float WeightScale(const WeightView& w, int64_t o, int64_t i) {
  return w.scales[(w.row_offset + o) / w.block * w.scale_stride + i / w.block];
}

inline float WeightValue(const WeightView& w, int64_t o, int64_t i, Compute compute) {
  const int64_t at = o * w.cols + i;
  if (w.dtype == DType::kBF16) return ToFloat(static_cast<const BF16*>(w.data)[at]);
  const float x = w.dtype == DType::kF32 ? static_cast<const float*>(w.data)[at]
                                         : ToFloat(static_cast<const F8E4M3*>(w.data)[at]) * WeightScale(w, o, i);
  return compute == Compute::kBF16 ? RoundToBF16(x) : x;
}

}  // namespace tokenferry

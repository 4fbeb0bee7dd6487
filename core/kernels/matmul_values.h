// What one row value and one weight are worth in a product (core/kernels/matmul.h), one at a time: the meaning that the
// reference uses throughout and the fast kernels at odd ends.
#pragma once

#include "core/kernels/matmul.h"

namespace tokenferry {

TF_HOST_DEVICE inline float RoundToBF16(float x) { return ToFloat(ToBF16(x)); }

// Value `i` of a row of `dtype`.
inline float RowValue(const void* row, DType dtype, int64_t i, Compute compute) {
  if (dtype == DType::kBF16) return ToFloat(static_cast<const BF16*>(row)[i]);
  const float x = static_cast<const float*>(row)[i];
  return compute == Compute::kBF16 ? RoundToBF16(x) : x;
}

template <class Format>
float WeightValue(const WeightView& w, int64_t o, int64_t i, Compute compute) {
  const float x = Format::Value(w, o, i);
  return compute == Compute::kBF16 && !Format::kIsBF16 ? RoundToBF16(x) : x;
}

// Weights [begin, begin + count) of row `o`.
inline void WeightValues(const WeightView& w, int64_t o, int64_t begin, int64_t count, Compute compute, float* values) {
  VisitWeightFormat(w.format, [&](auto format) {
    for (int64_t i = 0; i < count; ++i) values[i] = WeightValue<decltype(format)>(w, o, begin + i, compute);
  });
}

}  // namespace tokenferry

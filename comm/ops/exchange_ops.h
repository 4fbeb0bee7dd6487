// Device operations of the exchange. Index arrays and rows are reachable inside operations (device or host memory).
#pragma once

#include "core/device/device.h"
#include "core/formats/tensor.h"

namespace tokenferry {

// out[t] = fma chain from 0 over i in [offsets[t], offsets[t + 1]) of weight[t][k[i]] * rows[selection[i]], in that
// order and in f32; rounded once where out is kBF16.
struct CombineRowsArgs {
  ConstFloatMatrix rows;               // [n, H]
  const int64_t* offsets = nullptr;    // [T + 1]
  const int32_t* selection = nullptr;  // [n]
  const int32_t* k = nullptr;          // [n]
  MatrixView<const float> weight;      // [T, K]
  FloatMatrix out;                     // [T, H]
};
extern const Op<CombineRowsArgs> kCombineRows;

}  // namespace tokenferry

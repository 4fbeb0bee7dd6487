// Copying chosen rows of a matrix side by side.
#pragma once

#include "core/device/device.h"
#include "core/formats/tensor.h"

namespace tokenferry {

// out[i] = src[idx[i]], or src[i] where idx is null, [num_rows, src.cols] contiguous, of `dtype`: src's own (copied),
// or kBF16 from kF32 (rounded to nearest even). idx in device memory. From `live_rows` (core/kernels/live_rows.h) on,
// rows of out stay as they are.
struct GatherRowsArgs {
  ConstFloatMatrix src;
  const int32_t* idx = nullptr;
  int64_t num_rows = 0;
  void* out = nullptr;
  DType dtype = DType::kF32;
  const int64_t* live_rows = nullptr;
};
extern const Op<GatherRowsArgs> kGatherRows;

}  // namespace tokenferry

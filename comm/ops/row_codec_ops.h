// Narrow formats of rows on their way: what a dispatched row looks like in a message.
#pragma once

#include "core/device/device.h"
#include "core/formats/tensor.h"

namespace tokenferry {

// Values of one row that share a scale (DeepSeek-V3 report, section 3.3.2: 1x128 tiles of activations).
constexpr int64_t kScaleBlock = 128;

inline bool IsQuantised(DType dtype) { return dtype == DType::kF8E4M3 || dtype == DType::kI8; }

// Bytes of a row of `hidden` values: kF32 and kBF16 the values alone; kF8E4M3 and kI8 one byte per value, then one f32
// scale per block of kScaleBlock values (the last block may be short). Nothing is aligned.
int64_t RowBytes(DType dtype, int64_t hidden);

// out[i] = src[idx[i]] as a row of `dtype`, kF8E4M3 or kI8; src is widened to f32 first. Per block: a = largest
// magnitude, scale = a / 448 (E4M3) or a / 127 (int8), code = value / scale, both divisions in f32, rounded to nearest
// even and saturated. A block whose scale is 0 (all zeros, or too small to matter) has codes 0; one with a NaN or an
// infinity has scale NaN, so that it stays visible.
struct QuantiseRowsArgs {
  ConstFloatMatrix src;          // [n, H]
  const int32_t* idx = nullptr;  // [num_rows]
  int64_t num_rows = 0;
  void* out = nullptr;  // [num_rows, RowBytes]
  DType dtype = DType::kF8E4M3;
};
extern const Op<QuantiseRowsArgs> kQuantiseRows;

// out[i] = row i widened: code * scale in f32, then rounded to out_dtype. live_rows (core/kernels/live_rows.h): rows of
// out from there on stay as they are.
struct WidenRowsArgs {
  const void* rows = nullptr;  // [num_rows, RowBytes] of `dtype`, kF8E4M3 or kI8
  DType dtype = DType::kF8E4M3;
  int64_t num_rows = 0;
  int64_t hidden = 0;
  void* out = nullptr;            // [num_rows, H] contiguous
  DType out_dtype = DType::kF32;  // kF32 or kBF16
  const int64_t* live_rows = nullptr;
};
extern const Op<WidenRowsArgs> kWidenRows;

}  // namespace tokenferry

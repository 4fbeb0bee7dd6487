// Rows times a weight matrix, transposed: y[t, o] = sum_i x[t, i] * w[o, i].
//
// The meaning, bit for bit, of every implementation in Compute::kF32 on every instruction set: an output element is one
// chain of fused multiply-adds in each of 16 virtual lanes, lane l taking the inputs i with i % 16 == l in increasing
// order and starting from +0, and then the lanes are summed as a fixed tree: s[l] + s[l + 8] for l < 8, then + 4, + 2,
// + 1. Inputs beyond `cols` do not take part. What a stored weight is worth says its format
// (core/formats/weight_format.h). In Compute::kBF16 rows and weights are rounded to bf16 (after the multiplication by a
// scale) and the products, exact in f32, are summed in the same order; only Isa::kAvx512Bf16 differs: it uses
// vdpbf16ps, whose order and rounding are its own (still the same for any number of rows, threads and any batch). So a
// row's results never depend on the other rows, on their number, or on the number of threads.
#pragma once

#include "core/device/device.h"
#include "core/formats/tensor.h"
#include "core/formats/weight_format.h"

namespace tokenferry {

enum class Accumulate : uint8_t { kNo, kYes };  // y = product / y += product (one more rounding, after the sum)

struct MatMulArgs {
  const void* x = nullptr;      // [*, w.cols] of x_dtype, row stride x_stride elements
  DType x_dtype = DType::kF32;  // kF32 or kBF16
  int64_t x_stride = 0;
  const int32_t* row_idx = nullptr;  // [num_rows]: row t of the product is row row_idx[t] of x; null: row t
  int64_t num_rows = 0;              // may be 0
  WeightView w;
  float* y = nullptr;  // [num_rows, w.rows], row stride y_stride
  int64_t y_stride = 0;
  Compute compute = Compute::kF32;
  Accumulate accumulate = Accumulate::kNo;
};

void MatMul(Stream& stream, const MatMulArgs& args);

// Whether products run on tensor cores: on GPUs in kBF16. Rows in bf16 that begin at multiples of 16 bytes, each of
// w.cols, a multiple of 8, are copied there as they are; others are converted for every 128 outputs again, element by
// element, as are the weights then.
inline bool RunsOnTensorCores(DeviceKind device, Compute compute) {
  return device == DeviceKind::kCuda && compute == Compute::kBF16;
}
inline bool RunsOnTensorCores(Stream& stream, Compute compute) {
  return RunsOnTensorCores(stream.device().kind(), compute);
}

// One product per group: rows [offsets[g], offsets[g + 1]) of the product use weights.views[g].
struct GroupedMatMulArgs {
  const void* x = nullptr;
  DType x_dtype = DType::kF32;
  int64_t x_stride = 0;
  const int32_t* row_idx = nullptr;  // [offsets[num_groups]], or null
  const int64_t* offsets = nullptr;  // [num_groups + 1], increasing, offsets[0] = 0; device memory
  int64_t num_groups = 0;
  int64_t max_rows = 0;         // at least offsets[num_groups]: what a launch covers
  int64_t expected_rows = 0;    // about offsets[num_groups], 0: max_rows. Speed alone depends on it: it decides no bit
  WeightArray weights;          // [num_groups]
  void* y = nullptr;            // [offsets[num_groups], weights.layout.rows]
  DType y_dtype = DType::kF32;  // kF32, or kBF16: the f32 product rounded once, to nearest even
  int64_t y_stride = 0;         // elements
  Compute compute = Compute::kF32;
};

void GroupedMatMul(Stream& stream, const GroupedMatMulArgs& args);

}  // namespace tokenferry

// The first half of a gated feed-forward network as one kernel on tensor cores: y[t, o] = silu(gate[t, o]) * up[t, o],
// rounded to bf16, where gate and up are products of core/kernels/matmul.h in Compute::kBF16 and silu is Silu of
// core/kernels/exp.h, both and their product in f32: bit for bit what the operations give one after the other. Neither
// gates nor ups come to memory, rows are read once for both, and a product takes y's rows as they are, since it would
// round them to bf16 anyway.
#pragma once

#include "core/device/device.h"
#include "core/formats/tensor.h"
#include "core/formats/weight_format.h"

namespace tokenferry {

// Rows, groups and their numbers as GroupedMatMulArgs'.
struct GatedMatMulArgs {
  const void* x = nullptr;
  DType x_dtype = DType::kF32;
  int64_t x_stride = 0;
  const int32_t* row_idx = nullptr;
  const int64_t* offsets = nullptr;  // null: one group of max_rows
  int64_t num_groups = 1;
  int64_t max_rows = 0;
  int64_t expected_rows = 0;
  WeightArray gate, up;     // [num_groups], of one shape; views null: the layout is the one matrix itself
  MatrixView<BF16> y = {};  // [offsets[num_groups], gate.layout.rows]
};

// The faster way where products run on tensor cores; CPUs have the plain reference of it alone.
void GatedMatMul(Stream& stream, const GatedMatMulArgs& args);

}  // namespace tokenferry

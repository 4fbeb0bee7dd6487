#include "core/kernels/gated_matmul.h"
#include "core/kernels/matmul_mma_launch.cuh"

namespace tokenferry {

absl::Status CudaGatedMatMul(const GatedMatMulArgs& a, void* stream) {
  return mma::RunProduct<mma::Form::kGated>({.x = a.x,
                                             .x_dtype = a.x_dtype,
                                             .x_stride = a.x_stride,
                                             .row_idx = a.row_idx,
                                             .offsets = a.offsets,
                                             .num_rows = a.max_rows,
                                             .num_groups = static_cast<int>(a.num_groups),
                                             .weights = a.gate,
                                             .up = a.up,
                                             .y = a.y.data,
                                             .y_dtype = DType::kBF16,
                                             .y_stride = a.y.stride},
                                            a.max_rows, a.expected_rows, stream);
}

}  // namespace tokenferry

#include "core/kernels/matmul_mma.h"
#include "core/kernels/matmul_mma_launch.cuh"

namespace tokenferry {

absl::Status CudaMmaMatMul(const MatMulArgs& a, void* stream) {
  return mma::RunProduct<mma::Form::kPlain>({.x = a.x,
                                             .x_dtype = a.x_dtype,
                                             .x_stride = a.x_stride,
                                             .row_idx = a.row_idx,
                                             .num_rows = a.num_rows,
                                             .num_groups = 1,
                                             .weights = {.layout = a.w},
                                             .y = a.y,
                                             .y_dtype = DType::kF32,
                                             .y_stride = a.y_stride,
                                             .accumulate = a.accumulate},
                                            a.num_rows, a.num_rows, stream);
}

absl::Status CudaMmaGroupedMatMul(const GroupedMatMulArgs& a, void* stream) {
  return mma::RunProduct<mma::Form::kPlain>({.x = a.x,
                                             .x_dtype = a.x_dtype,
                                             .x_stride = a.x_stride,
                                             .row_idx = a.row_idx,
                                             .offsets = a.offsets,
                                             .num_groups = static_cast<int>(a.num_groups),
                                             .weights = a.weights,
                                             .y = a.y,
                                             .y_dtype = a.y_dtype,
                                             .y_stride = a.y_stride},
                                            a.max_rows, a.expected_rows, stream);
}

}  // namespace tokenferry

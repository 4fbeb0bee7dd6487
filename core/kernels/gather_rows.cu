#include "core/device/cuda_launch.cuh"
#include "core/kernels/gather_rows.h"
#include "core/kernels/row_copy.cuh"

namespace tokenferry {
namespace {

// A block per row.
__global__ void CopyRowsKernel(const char* src, int64_t src_stride_bytes, const int32_t* idx, int64_t row_bytes,
                               char* out) {
  const int64_t row = blockIdx.x;
  CopyBytesByBlock(out + row * row_bytes, src + idx[row] * src_stride_bytes, row_bytes);
}

__global__ void RoundRowsKernel(MatrixView<const float> src, const int32_t* idx, BF16* out) {
  const int64_t row = blockIdx.x;
  const float* values = src.row(idx[row]);
  for (int64_t c = threadIdx.x; c < src.cols; c += blockDim.x) out[row * src.cols + c] = ToBF16(values[c]);
}

}  // namespace

absl::Status CudaGatherRows(const GatherRowsArgs& a, void* stream) {
  if (a.dtype != a.src.dtype) {
    return LaunchKernel(RoundRowsKernel, {a.num_rows, ThreadsFor(a.src.cols)}, stream, a.src.as<const float>(), a.idx,
                        static_cast<BF16*>(a.out));
  }
  const int64_t element_bytes = a.src.element_bytes(), row_bytes = a.src.cols * element_bytes;
  return LaunchKernel(CopyRowsKernel, {a.num_rows, ThreadsFor(row_bytes / 16)}, stream,
                      static_cast<const char*>(a.src.data), a.src.stride * element_bytes, a.idx, row_bytes,
                      static_cast<char*>(a.out));
}

}  // namespace tokenferry

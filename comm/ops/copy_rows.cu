#include "comm/ops/copy_rows.h"
#include "core/device/cuda_launch.cuh"
#include "core/kernels/row_copy.cuh"

namespace tokenferry {
namespace {

// A block per row.
__global__ void CopyRowsKernel(const char* src, const int32_t* idx, int64_t row_bytes, char* out) {
  const int64_t row = blockIdx.x;
  CopyBytesByBlock(out + row * row_bytes, src + idx[row] * row_bytes, row_bytes);
}

// A block per row.
__global__ void PullRowsFromKernel(PullRowsFromArgs a) {
  const int64_t row = blockIdx.x;
  CopyBytesByBlock(a.out + row * a.row_bytes, a.from[row], a.row_bytes);
}

}  // namespace

absl::Status CudaCopyRows(const CopyRowsArgs& a, void* stream) {
  return LaunchKernel(CopyRowsKernel, {a.num_rows, ThreadsFor(a.row_bytes / 16)}, stream,
                      static_cast<const char*>(a.src), a.idx, a.row_bytes, static_cast<char*>(a.out));
}

absl::Status CudaPullRowsFrom(const PullRowsFromArgs& a, void* stream) {
  return LaunchKernel(PullRowsFromKernel, {a.num_rows, ThreadsFor(a.row_bytes / 16)}, stream, a);
}

}  // namespace tokenferry

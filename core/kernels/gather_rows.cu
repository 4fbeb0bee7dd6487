#include "core/device/cuda_launch.cuh"
#include "core/kernels/gather_rows.h"
#include "core/kernels/live_rows.h"
#include "core/kernels/row_copy.cuh"

namespace tokenferry {
namespace {

// Both: a block per row that there may be.
__global__ void CopyRowsKernel(GatherRowsArgs a, int64_t row_bytes) {
  const int64_t row = blockIdx.x;
  if (!IsLive(row, a.live_rows)) return;
  CopyBytesByBlock(static_cast<char*>(a.out) + row * row_bytes,
                   static_cast<const char*>(a.src.row(a.idx == nullptr ? row : a.idx[row])), row_bytes);
}

__global__ void RoundRowsKernel(GatherRowsArgs a) {
  const int64_t row = blockIdx.x;
  if (!IsLive(row, a.live_rows)) return;
  const auto* values = static_cast<const float*>(a.src.row(a.idx == nullptr ? row : a.idx[row]));
  auto* const out = static_cast<BF16*>(a.out) + row * a.src.cols;
  for (int64_t c = threadIdx.x; c < a.src.cols; c += blockDim.x) out[c] = ToBF16(values[c]);
}

}  // namespace

absl::Status CudaGatherRows(const GatherRowsArgs& a, void* stream) {
  if (a.dtype != a.src.dtype) return LaunchKernel(RoundRowsKernel, {a.num_rows, ThreadsFor(a.src.cols)}, stream, a);
  const int64_t row_bytes = a.src.cols * a.src.element_bytes();
  return LaunchKernel(CopyRowsKernel, {a.num_rows, ThreadsFor(row_bytes / 16)}, stream, a, row_bytes);
}

}  // namespace tokenferry

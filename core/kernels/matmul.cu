#include <algorithm>

#include "core/device/cuda_launch.cuh"
#include "core/kernels/matmul.h"
#include "core/kernels/matmul_mma.h"
#include "core/kernels/matmul_tile.cuh"

namespace tokenferry {
namespace {

// A block per (panel of outputs, tile of rows); neighbours share weights.
template <class Format, class X>
__global__ void MatMulKernel(ProductRows<X> rows, int64_t num_rows, WeightView w, ProductOut out) {
  const int64_t num_row_tiles = (num_rows + kTileRows - 1) / kTileRows;
  const int64_t panel = blockIdx.x / num_row_tiles, row = blockIdx.x % num_row_tiles * kTileRows;
  MultiplyBlock<Format>(rows, w, row, min(num_rows - row, int64_t{kTileRows}), panel * kBlockOuts, out);
}

// Tiles of a group's rows are dealt out to this many blocks at most: how many there are is known on the device only.
constexpr int kGroupBlocks = 4;

// A block per (group, panel of outputs) along x; along y, each takes every gridDim.y-th tile of the group's rows.
template <class Format, class X>
__global__ void GroupedMatMulKernel(ProductRows<X> rows, const int64_t* offsets, const WeightView* weights,
                                    int64_t num_panels, ProductOut out) {
  const int64_t group = blockIdx.x / num_panels, o = blockIdx.x % num_panels * kBlockOuts, end = offsets[group + 1];
  const WeightView w = weights[group];
  for (int64_t row = offsets[group] + int64_t{blockIdx.y} * kTileRows; row < end;
       row += int64_t{gridDim.y} * kTileRows) {
    MultiplyBlock<Format>(rows, w, row, min(end - row, int64_t{kTileRows}), o, out);
  }
}

template <class X>
absl::Status MatMulOf(const MatMulArgs& a, void* stream) {
  const LaunchShape shape = {CeilDiv(a.num_rows, kTileRows) * CeilDiv(a.w.rows, kBlockOuts), kTileThreads};
  const ProductRows<X> rows = {static_cast<const X*>(a.x), a.x_stride, a.row_idx};
  const ProductOut out = {a.y, a.y_stride, a.accumulate};
  return LaunchForFormat(a.w.format, [&](auto format) {
    using Format = decltype(format);
    return LaunchKernel(MatMulKernel<Format, X>, shape, stream, rows, a.num_rows, a.w, out);
  });
}

template <class X>
absl::Status GroupedMatMulOf(const GroupedMatMulArgs& a, void* stream) {
  const int64_t num_panels = CeilDiv(a.weights.layout.rows, kBlockOuts);
  const LaunchShape shape = {a.num_groups * num_panels, kTileThreads, 0,
                             std::min<int64_t>(kGroupBlocks, CeilDiv(a.max_rows, kTileRows))};
  const ProductRows<X> rows = {static_cast<const X*>(a.x), a.x_stride, a.row_idx};
  const ProductOut out = {a.y, a.y_stride, Accumulate::kNo, a.y_dtype};
  return LaunchForFormat(a.weights.layout.format, [&](auto format) {
    using Format = decltype(format);
    return LaunchKernel(GroupedMatMulKernel<Format, X>, shape, stream, rows, a.offsets, a.weights.views, num_panels,
                        out);
  });
}

}  // namespace

absl::Status CudaMatMul(const MatMulArgs& a, void* stream) {
  if (a.compute == Compute::kBF16) return CudaMmaMatMul(a, stream);
  return a.x_dtype == DType::kBF16 ? MatMulOf<BF16>(a, stream) : MatMulOf<float>(a, stream);
}

absl::Status CudaGroupedMatMul(const GroupedMatMulArgs& a, void* stream) {
  if (a.compute == Compute::kBF16) return CudaMmaGroupedMatMul(a, stream);
  return a.x_dtype == DType::kBF16 ? GroupedMatMulOf<BF16>(a, stream) : GroupedMatMulOf<float>(a, stream);
}

}  // namespace tokenferry

#include <algorithm>

#include "core/device/cuda_launch.cuh"
#include "core/kernels/matmul_mma.cuh"
#include "core/kernels/matmul_mma.h"

namespace tokenferry {
namespace {

using mma::Problem;
using mma::RowLoad;
using mma::WeightLoad;

// How many blocks of the kernel the device holds at a time: more would only wait.
template <class Kernel>
absl::StatusOr<int64_t> ResidentBlocks(Kernel kernel, int threads, size_t shared_bytes) {
  int device = 0, num_sms = 0, per_sm = 0;
  TF_RETURN_IF_CUDA_ERROR(cudaGetDevice(&device));
  TF_RETURN_IF_CUDA_ERROR(cudaDeviceGetAttribute(&num_sms, cudaDevAttrMultiProcessorCount, device));
  TF_RETURN_IF_ERROR(AllowSharedMemory(reinterpret_cast<const void*>(kernel), shared_bytes));
  TF_RETURN_IF_CUDA_ERROR(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&per_sm, kernel, threads, shared_bytes));
  return static_cast<int64_t>(num_sms) * std::max(1, per_sm);
}

template <int kTokens, WeightLoad kWeightLoad>
size_t SharedBytes(const Problem& p) {
  return mma::Tile<kTokens, kWeightLoad>::kBytes + (kTokens + p.num_groups + 1) * sizeof(int);
}

template <int kTokens, WeightLoad kWeightLoad, RowLoad kRowLoad>
absl::Status Run(const Problem& p, int64_t max_rows, void* stream) {
  using Tile = mma::Tile<kTokens, kWeightLoad>;
  const auto kernel = mma::Product<kTokens, kWeightLoad, kRowLoad>;
  const size_t shared_bytes = SharedBytes<kTokens, kWeightLoad>(p);
  TF_ASSIGN_OR_RETURN(const int64_t resident, ResidentBlocks(kernel, Tile::kThreads, shared_bytes));
  const int64_t row_tiles = max_rows / kTokens + std::min<int64_t>(p.num_groups, max_rows);
  const int64_t blocks = std::min(resident, CeilDiv(p.num_outs(), mma::kTileOuts) * row_tiles);
  return LaunchKernel(kernel, {blocks, Tile::kThreads, shared_bytes}, stream, p);
}

// How many rows a launch has to cover, and how many a group probably has on average.
struct RowCounts {
  int64_t most, per_group;
};

// The tile follows from the rows that a group has, and from the memory of a block: that of A100 holds every tile, that
// of smaller GPUs (99 KiB) none of 256 rows. It decides how often weights are read again, and no bit.
template <WeightLoad kWeightLoad, RowLoad kRowLoad, int kTokens = 256>
absl::Status RunForRows(const Problem& p, const RowCounts& rows, size_t most_shared, void* stream) {
  constexpr int kRowsOfSmaller = kTokens == 256 ? 192 : kTokens / 2;
  if constexpr (kTokens > 8) {
    if (rows.per_group <= kRowsOfSmaller || SharedBytes<kTokens, kWeightLoad>(p) > most_shared) {
      return RunForRows<kWeightLoad, kRowLoad, kTokens / 2>(p, rows, most_shared, stream);
    }
  }
  return Run<kTokens, kWeightLoad, kRowLoad>(p, rows.most, stream);
}

// What the first loads of a matrix have to be aligned to; views of one array lie in buffers that are aligned to 64.
bool CopiesRows(const Problem& p) {
  return p.x_dtype == DType::kBF16 && p.x_stride % 8 == 0 && p.num_inputs() % 8 == 0 &&
         reinterpret_cast<uintptr_t>(p.x) % 16 == 0;
}
bool IsAligned(const WeightView& w) { return w.data == nullptr || reinterpret_cast<uintptr_t>(w.data) % 16 == 0; }

absl::Status RunProduct(const Problem& p, int64_t max_rows, int64_t expected_rows, void* stream) {
  const WeightView& w = p.weights.layout;
  if (max_rows == 0 || p.num_groups == 0 || w.rows == 0) return absl::OkStatus();
  CheckWeight(w);
  const RowCounts rows = {max_rows, CeilDiv(expected_rows, p.num_groups)};
  TF_ASSIGN_OR_RETURN(const size_t shared, MostSharedBytes());
  const WeightFormat& f = w.format;
  if (BF16Weights::Matches(f) && w.cols % 8 == 0 && IsAligned(w)) {
    return CopiesRows(p) ? RunForRows<WeightLoad::kBF16, RowLoad::kBF16>(p, rows, shared, stream)
                         : RunForRows<WeightLoad::kBF16, RowLoad::kAny>(p, rows, shared, stream);
  }
  if (F8BlockWeights::Matches(f) && w.cols % 16 == 0 && IsAligned(w) && f.block_rows % 16 == 0 &&
      f.block_cols % mma::kStepInputs == 0 && w.row_offset % 16 == 0) {
    return CopiesRows(p) ? RunForRows<WeightLoad::kF8, RowLoad::kBF16>(p, rows, shared, stream)
                         : RunForRows<WeightLoad::kF8, RowLoad::kAny>(p, rows, shared, stream);
  }
  return RunForRows<WeightLoad::kAny, RowLoad::kAny>(p, rows, shared, stream);
}

}  // namespace

absl::Status CudaMmaMatMul(const MatMulArgs& a, void* stream) {
  return RunProduct({.x = a.x,
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
  return RunProduct({.x = a.x,
                     .x_dtype = a.x_dtype,
                     .x_stride = a.x_stride,
                     .row_idx = a.row_idx,
                     .offsets = a.offsets,
                     .num_groups = static_cast<int>(a.num_groups),
                     .weights = a.weights,
                     .y = a.y,
                     .y_dtype = a.y_dtype,
                     .y_stride = a.y_stride,
                     .accumulate = Accumulate::kNo},
                    a.max_rows, a.expected_rows > 0 ? a.expected_rows : a.max_rows, stream);
}

}  // namespace tokenferry

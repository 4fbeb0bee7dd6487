// How the kernels of matmul_mma.cuh are launched. Who includes it compiles those of the Form that he asks for.
#pragma once

#include <algorithm>

#include "core/device/cuda_launch.cuh"
#include "core/kernels/matmul_mma.cuh"

namespace tokenferry::mma {

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

template <int kTokens, LoadKind kLoad>
size_t SharedBytes(const Problem& p) {
  return Tile<kTokens, kLoad>::kBytes + (kTokens + p.num_groups + 1) * sizeof(int);
}

template <Form kForm, int kTokens, LoadKind kLoad>
absl::Status Run(const Problem& p, int64_t max_rows, void* stream) {
  constexpr int kThreads = Tile<kTokens, kLoad>::kThreads;
  const auto kernel = Product<kTokens, kLoad, kForm>;
  const size_t shared_bytes = SharedBytes<kTokens, kLoad>(p);
  TF_ASSIGN_OR_RETURN(const int64_t resident, ResidentBlocks(kernel, kThreads, shared_bytes));
  const int64_t row_tiles = max_rows / kTokens + std::min<int64_t>(p.num_groups, max_rows);
  const int64_t blocks = std::min(resident, CeilDiv(p.num_outs(), Matrices<kForm, kThreads>::kOuts) * row_tiles);
  return LaunchKernel(kernel, {blocks, kThreads, shared_bytes}, stream, p);
}

// How many rows a launch has to cover, and how many a group probably has on average.
struct RowCounts {
  int64_t most, per_group;
};

// The tile follows from the rows that a group has, and from the memory of a block: that of A100 holds every tile, that
// of smaller GPUs (99 KiB) none of 256 rows. It decides how often weights are read again, and no bit.
template <Form kForm, LoadKind kLoad, int kTokens = 256>
absl::Status RunForRows(const Problem& p, const RowCounts& rows, size_t most_shared, void* stream) {
  constexpr int kRowsOfSmaller = kTokens == 256 ? 192 : kTokens / 2;
  if constexpr (kTokens > 8) {
    if (rows.per_group <= kRowsOfSmaller || SharedBytes<kTokens, kLoad>(p) > most_shared) {
      return RunForRows<kForm, kLoad, kTokens / 2>(p, rows, most_shared, stream);
    }
  }
  return Run<kForm, kTokens, kLoad>(p, rows.most, stream);
}

// Rows that are copied as they are.
inline bool CopiesRows(const Problem& p) {
  return p.x_dtype == DType::kBF16 && p.x_stride % 8 == 0 && p.num_inputs() % 8 == 0 &&
         reinterpret_cast<uintptr_t>(p.x) % 16 == 0;
}

inline LoadKind LoadOf(const WeightView& w) {
  const WeightFormat& f = w.format;
  // Views of one array lie in buffers that are aligned to 64.
  if (w.data != nullptr && reinterpret_cast<uintptr_t>(w.data) % 16 != 0) return LoadKind::kAny;
  if (BF16Weights::Matches(f) && w.cols % 8 == 0) return LoadKind::kBF16;
  if (F8BlockWeights::Matches(f) && w.cols % 16 == 0 && f.block_rows % 16 == 0 && f.block_cols % kStepInputs == 0 &&
      w.row_offset % 16 == 0) {
    return LoadKind::kF8;
  }
  return LoadKind::kAny;
}

template <Form kForm>
LoadKind LoadOf(const Problem& p) {
  if (!CopiesRows(p)) return LoadKind::kAny;
  const LoadKind load = LoadOf(p.weights.layout);
  return kForm == Form::kGated && LoadOf(p.up.layout) != load ? LoadKind::kAny : load;
}

template <Form kForm>
absl::Status RunProduct(const Problem& p, int64_t max_rows, int64_t expected_rows, void* stream) {
  if (max_rows == 0 || p.num_groups == 0 || p.num_outs() == 0) return absl::OkStatus();
  CheckWeight(p.weights.layout);
  if constexpr (kForm == Form::kGated) CheckWeight(p.up.layout);
  const RowCounts rows = {max_rows, CeilDiv(expected_rows > 0 ? expected_rows : max_rows, p.num_groups)};
  TF_ASSIGN_OR_RETURN(const size_t shared, MostSharedBytes());
  switch (LoadOf<kForm>(p)) {
    case LoadKind::kBF16:
      return RunForRows<kForm, LoadKind::kBF16>(p, rows, shared, stream);
    case LoadKind::kF8:
      return RunForRows<kForm, LoadKind::kF8>(p, rows, shared, stream);
    default:
      return RunForRows<kForm, LoadKind::kAny>(p, rows, shared, stream);
  }
}

}  // namespace tokenferry::mma

#include "bench/alltoall/bench_ops.h"
#include "core/device/cuda_launch.cuh"
#include "core/formats/scalar.h"
#include "core/kernels/offsets.cuh"
#include "core/kernels/row_copy.cuh"
#include "core/kernels/store.cuh"

namespace tokenferry {
namespace {

constexpr int kMostWarps = 8;  // of a block

__device__ int64_t IndexOf(const int32_t* idx, int64_t i) { return idx == nullptr ? i : idx[i]; }

// The exclusive or of the thread's words of a row, 16 bytes at a time where it lies so.
__device__ uint64_t ThreadChecksum(const uint8_t* row, int64_t row_bytes) {
  uint64_t sum = 0;
  int64_t first_word = 0;
  if (reinterpret_cast<uintptr_t>(row) % sizeof(ulonglong2) == 0) {
    const auto* pairs = reinterpret_cast<const ulonglong2*>(row);
    const int64_t num_pairs = row_bytes / static_cast<int64_t>(sizeof(ulonglong2));
    for (int64_t i = threadIdx.x; i < num_pairs; i += blockDim.x) {
      const ulonglong2 pair = pairs[i];
      sum ^= pair.x ^ pair.y;
    }
    first_word = 2 * num_pairs;
  }
  for (int64_t i = 8 * (first_word + threadIdx.x); i < row_bytes; i += 8 * int64_t{blockDim.x}) {
    for (int64_t b = i; b < row_bytes && b < i + 8; ++b) sum ^= uint64_t{row[b]} << (8 * (b - i));
  }
  return sum;
}

// A block per selection that there may be.
__global__ void ReadRowsKernel(ReadRowsArgs a) {
  __shared__ uint64_t sums[kMostWarps];
  const int64_t s = blockIdx.x;
  if (a.num_read != nullptr && s >= *a.num_read) {
    if (threadIdx.x == 0) a.checksum[s] = 0;
    return;
  }
  uint64_t sum =
      ThreadChecksum(static_cast<const uint8_t*>(a.rows) + IndexOf(a.row_idx, s) * a.row_stride, a.row_bytes);
  for (int d = kWarpSize / 2; d > 0; d /= 2) sum ^= __shfl_xor_sync(kWholeWarp, sum, d);
  if (threadIdx.x % kWarpSize == 0) sums[threadIdx.x / kWarpSize] = sum;
  __syncthreads();
  if (threadIdx.x != 0) return;
  for (unsigned w = 1; w < blockDim.x / kWarpSize; ++w) sum ^= sums[w];
  a.checksum[s] = sum;
}

// A block per selection that there may be, a thread per column.
template <class In, class Out>
__global__ void TransformRowsKernel(TransformRowsArgs a) {
  const int64_t s = blockIdx.x;
  if (s >= a.slot_offsets[a.num_slots]) return;
  const float factor = a.slot_factor[GroupHolding(a.slot_offsets, a.num_slots, s)];
  const In* row = static_cast<const In*>(a.rows) + IndexOf(a.row_idx, s) * a.row_stride;
  Out* out = static_cast<Out*>(a.out) + s * a.out_stride;
  for (int64_t c = threadIdx.x; c < a.hidden; c += blockDim.x) StoreFloat(__fmul_rn(factor, ToFloat(row[c])), out[c]);
}

template <class In>
absl::Status Transform(const TransformRowsArgs& a, void* stream) {
  const LaunchShape shape = {a.num_slots > 0 ? a.max_selections : 0, ThreadsFor(a.hidden)};
  if (a.out_dtype == DType::kBF16) return LaunchKernel(TransformRowsKernel<In, BF16>, shape, stream, a);
  return LaunchKernel(TransformRowsKernel<In, float>, shape, stream, a);
}

// A block per row.
__global__ void MoveRowsKernel(MoveRowsArgs a) {
  const int64_t i = blockIdx.x;
  CopyBytesByBlock(static_cast<char*>(a.dst) + IndexOf(a.dst_idx, i) * a.row_bytes,
                   static_cast<const char*>(a.src) + IndexOf(a.src_idx, i) * a.row_bytes, a.row_bytes);
}

}  // namespace

absl::Status CudaReadRows(const ReadRowsArgs& a, void* stream) {
  return LaunchKernel(ReadRowsKernel, {a.num_selections, ThreadsFor(a.row_bytes / 16)}, stream, a);
}

absl::Status CudaTransformRows(const TransformRowsArgs& a, void* stream) {
  return a.dtype == DType::kBF16 ? Transform<BF16>(a, stream) : Transform<float>(a, stream);
}

absl::Status CudaMoveRows(const MoveRowsArgs& a, void* stream) {
  return LaunchKernel(MoveRowsKernel, {a.num_rows, ThreadsFor(a.row_bytes / 16)}, stream, a);
}

}  // namespace tokenferry

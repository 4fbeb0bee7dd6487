#include "core/device/cuda_launch.cuh"
#include "core/kernels/row_copy.cuh"
#include "experts/ffn/padded_rows.h"

namespace tokenferry {
namespace {

// A block per row of `out`. A slot with more selections than its capacity is a broken plan: the kernel traps, and the
// stream has a sticky error.
__global__ void PadKernel(const char* rows, int64_t stride_bytes, int64_t row_bytes, const int32_t* row_idx,
                          const int64_t* slot_offsets, int64_t capacity, char* out, int32_t* out_row_idx,
                          int64_t* out_slot_offsets) {
  const int64_t at = blockIdx.x, slot = at / capacity, i = at % capacity;
  const int64_t begin = slot_offsets[slot], count = slot_offsets[slot + 1] - begin;
  if (count > capacity) __trap();
  char* to = out + at * row_bytes;
  if (i < count) {
    CopyBytesByBlock(to, rows + row_idx[begin + i] * stride_bytes, row_bytes);
  } else {
    for (int64_t b = threadIdx.x; b < row_bytes; b += blockDim.x) to[b] = 0;
  }
  if (threadIdx.x != 0) return;
  out_row_idx[at] = static_cast<int32_t>(at);
  if (at == 0) out_slot_offsets[0] = 0;
  if (i == capacity - 1) out_slot_offsets[slot + 1] = at + 1;
}

// A block per row of `padded`.
__global__ void UnpadKernel(const char* padded, int64_t row_bytes, const int64_t* slot_offsets, int64_t capacity,
                            char* out) {
  const int64_t at = blockIdx.x, slot = at / capacity, i = at % capacity;
  const int64_t begin = slot_offsets[slot], count = slot_offsets[slot + 1] - begin;
  if (i < count) CopyBytesByBlock(out + (begin + i) * row_bytes, padded + at * row_bytes, row_bytes);
}

}  // namespace

absl::Status CudaPadRows(const PadRowsArgs& a, void* stream) {
  const int64_t element_bytes = DTypeBytes(a.in.dtype), row_bytes = a.in.hidden * element_bytes;
  return LaunchKernel(PadKernel, {a.num_slots * a.capacity, ThreadsFor(row_bytes / 16)}, stream,
                      static_cast<const char*>(a.in.rows), a.in.row_stride * element_bytes, row_bytes, a.in.row_idx,
                      a.in.slot_offsets, a.capacity, static_cast<char*>(a.out), a.out_row_idx, a.out_slot_offsets);
}

absl::Status CudaUnpadRows(const UnpadRowsArgs& a, void* stream) {
  const int64_t row_bytes = a.out.cols * a.out.element_bytes();
  return LaunchKernel(UnpadKernel, {a.num_slots * a.capacity, ThreadsFor(row_bytes / 16)}, stream,
                      static_cast<const char*>(a.padded.data), row_bytes, a.slot_offsets, a.capacity,
                      static_cast<char*>(a.out.data));
}

}  // namespace tokenferry

#include "core/device/cuda_launch.cuh"
#include "experts/ffn/count_rows.h"

namespace tokenferry {
namespace {

// A thread per slot.
__global__ void CountRowsKernel(CountRowsArgs a) {
  const int64_t s = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (s < a.num_slots) a.counts[s] += a.slot_offsets[s + 1] - a.slot_offsets[s];
}

}  // namespace

absl::Status CudaCountRows(const CountRowsArgs& a, void* stream) {
  constexpr int kThreads = 128;
  return LaunchKernel(CountRowsKernel, {CeilDiv(a.num_slots, kThreads), kThreads}, stream, a);
}

}  // namespace tokenferry

#include "core/device/cuda_launch.cuh"
#include "core/kernels/exp.h"
#include "core/kernels/live_rows.h"
#include "experts/ffn/expert_ffn.h"

namespace tokenferry {
namespace {

// A block per row that there may be.
__global__ void SiluMulKernel(SiluMulArgs a) {
  if (!IsLive(blockIdx.x, a.live_rows)) return;
  const float *z = a.gate.row(blockIdx.x), *factor = a.up.row(blockIdx.x);
  float* to = a.out.row(blockIdx.x);
  for (int64_t i = threadIdx.x; i < a.out.cols; i += blockDim.x) to[i] = __fmul_rn(Silu(z[i]), factor[i]);
}

}  // namespace

absl::Status CudaSiluMul(const SiluMulArgs& a, void* stream) {
  return LaunchKernel(SiluMulKernel, {a.out.rows, ThreadsFor(a.out.cols)}, stream, a);
}

}  // namespace tokenferry

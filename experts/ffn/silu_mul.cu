#include "core/device/cuda_launch.cuh"
#include "core/kernels/exp.h"
#include "experts/ffn/expert_ffn.h"

namespace tokenferry {
namespace {

// A block per row.
__global__ void SiluMulKernel(MatrixView<const float> gate, MatrixView<const float> up, MatrixView<float> out) {
  const float *z = gate.row(blockIdx.x), *factor = up.row(blockIdx.x);
  float* to = out.row(blockIdx.x);
  for (int64_t i = threadIdx.x; i < out.cols; i += blockDim.x) {
    const float denominator = __fadd_rn(1.0f, ExpF32(-z[i]));
    const float silu = isinf(denominator) ? -0.0f : __fdiv_rn(z[i], denominator);
    to[i] = __fmul_rn(silu, factor[i]);
  }
}

}  // namespace

absl::Status CudaSiluMul(const SiluMulArgs& a, void* stream) {
  return LaunchKernel(SiluMulKernel, {a.out.rows, ThreadsFor(a.out.cols)}, stream, a.gate, a.up, a.out);
}

}  // namespace tokenferry

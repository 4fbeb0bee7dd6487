#include "core/device/cuda_launch.cuh"
#include "core/kernels/lanes.cuh"
#include "runtime/ops/norm_ops.h"

namespace tokenferry {
namespace {

// A block per row. The sum of squares has 16 lanes by definition: the first warp's.
template <class Weight>
__global__ void RmsNormKernel(MatrixView<const float> x, const Weight* weight, float eps, MatrixView<float> out) {
  __shared__ float shared_inverse;
  const float* row = x.row(blockIdx.x);
  if (threadIdx.x < kWarpSize) {
    const auto value = [&](int64_t i) { return row[i]; };
    const float sum = SumHalfWarp(LaneChain(threadIdx.x % kHalfWarp, x.cols, value, value));
    if (threadIdx.x == 0) {
      const float mean = __fdiv_rn(sum, static_cast<float>(x.cols));
      shared_inverse = __fdiv_rn(1.0f, __fsqrt_rn(__fadd_rn(mean, eps)));
    }
  }
  __syncthreads();
  const float inverse = shared_inverse;
  float* to = out.row(blockIdx.x);
  for (int64_t i = threadIdx.x; i < x.cols; i += blockDim.x) {
    to[i] = __fmul_rn(__fmul_rn(row[i], inverse), ToFloat(weight[i]));
  }
}

}  // namespace

absl::Status CudaRmsNorm(const RmsNormArgs& a, void* stream) {
  const LaunchShape shape = {a.x.rows, ThreadsFor(a.x.cols)};
  if (a.weight_dtype == DType::kF32) {
    return LaunchKernel(RmsNormKernel<float>, shape, stream, a.x, static_cast<const float*>(a.weight), a.eps, a.out);
  }
  return LaunchKernel(RmsNormKernel<BF16>, shape, stream, a.x, static_cast<const BF16*>(a.weight), a.eps, a.out);
}

}  // namespace tokenferry

#include "core/device/cuda_launch.cuh"
#include "core/kernels/exp.h"
#include "runtime/ops/elementwise_ops.h"

namespace tokenferry {
namespace {

__device__ float Element(const AddBiasArgs& a, int64_t, int64_t i, float x) { return __fadd_rn(x, a.bias[i]); }

__device__ float Element(const ClampArgs& a, int64_t, int64_t, float x) {
  return x > a.limit ? a.limit : x < -a.limit ? -a.limit : x;
}

__device__ float Element(const GateRowsArgs& a, int64_t t, int64_t, float x) {
  return __fmul_rn(x, Sigmoid(a.logits[t]));
}

__device__ float Element(const GateArgs& a, int64_t t, int64_t i, float x) {
  return __fmul_rn(x, Sigmoid(a.gate.row(t)[i]));
}

__device__ float Element(const ScaleArgs& a, int64_t, int64_t, float x) { return __fmul_rn(x, a.factor); }

// A block per row.
template <class Args>
__global__ void ElementwiseKernel(Args a) {
  float* x = a.x.row(blockIdx.x);
  for (int64_t i = threadIdx.x; i < a.x.cols; i += blockDim.x) x[i] = Element(a, blockIdx.x, i, x[i]);
}

// A block per row.
__global__ void ScaleRowsKernel(ScaleRowsArgs a) {
  const float* x = a.x.row(blockIdx.x);
  const float weight = *a.weight.row(blockIdx.x);
  float* out = a.out.row(blockIdx.x);
  for (int64_t i = threadIdx.x; i < a.x.cols; i += blockDim.x) out[i] = __fmul_rn(x[i], weight);
}

template <class Args>
absl::Status LaunchElementwise(const Args& a, void* stream) {
  return LaunchKernel(ElementwiseKernel<Args>, {a.x.rows, ThreadsFor(a.x.cols)}, stream, a);
}

}  // namespace

absl::Status CudaAddBias(const AddBiasArgs& args, void* stream) { return LaunchElementwise(args, stream); }
absl::Status CudaClamp(const ClampArgs& args, void* stream) { return LaunchElementwise(args, stream); }
absl::Status CudaGateRows(const GateRowsArgs& args, void* stream) { return LaunchElementwise(args, stream); }
absl::Status CudaGate(const GateArgs& args, void* stream) { return LaunchElementwise(args, stream); }
absl::Status CudaScale(const ScaleArgs& args, void* stream) { return LaunchElementwise(args, stream); }
absl::Status CudaScaleRows(const ScaleRowsArgs& args, void* stream) {
  return LaunchKernel(ScaleRowsKernel, {args.x.rows, ThreadsFor(args.x.cols)}, stream, args);
}

}  // namespace tokenferry

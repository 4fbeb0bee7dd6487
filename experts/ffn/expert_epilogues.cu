#include "core/device/cuda_launch.cuh"
#include "core/kernels/exp.h"
#include "core/kernels/live_rows.h"
#include "core/kernels/offsets.cuh"
#include "core/kernels/store.cuh"
#include "experts/ffn/expert_ffn.h"

namespace tokenferry {
namespace {

// A block per row that there may be, as below.
__global__ void ClampedSwigluKernel(ClampedSwigluArgs a) {
  if (!IsLive(blockIdx.x, a.live_rows)) return;
  const float *gate = a.gate.row(blockIdx.x), *up = a.up.row(blockIdx.x);
  float* out = a.out.row(blockIdx.x);
  for (int64_t i = threadIdx.x; i < a.out.cols; i += blockDim.x) {
    const float g = gate[i] > a.limit ? a.limit : gate[i];
    const float u = up[i] > a.limit ? a.limit : up[i] < -a.limit ? -a.limit : up[i];
    const float sigmoid = __fdiv_rn(g, __fadd_rn(1.0f, ExpF32(__fmul_rn(-a.alpha, g))));
    out[i] = __fmul_rn(__fadd_rn(u, 1.0f), sigmoid);
  }
}

// No maximum, which would take 0 for a NaN.
__global__ void ReluKernel(ReluArgs a) {
  if (!IsLive(blockIdx.x, a.live_rows)) return;
  float* x = a.x.row(blockIdx.x);
  for (int64_t i = threadIdx.x; i < a.x.cols; i += blockDim.x) x[i] = x[i] < 0 ? 0.0f : x[i];
}

template <class T>
__global__ void AddSlotBiasKernel(MatrixView<T> x, const int64_t* slot_offsets, int64_t num_slots,
                                  const WeightView* bias) {
  const int64_t row = blockIdx.x;
  if (row < slot_offsets[0] || row >= slot_offsets[num_slots]) return;
  const auto* values = static_cast<const float*>(bias[GroupHolding(slot_offsets, num_slots, row)].data);
  T* to = x.row(row);
  for (int64_t i = threadIdx.x; i < x.cols; i += blockDim.x) StoreFloat(__fadd_rn(ToFloat(to[i]), values[i]), to[i]);
}

template <class T>
absl::Status LaunchAddSlotBias(const AddSlotBiasArgs& a, void* stream) {
  const LaunchShape shape = {a.num_slots > 0 ? a.x.rows : 0, ThreadsFor(a.x.cols)};
  return LaunchKernel(AddSlotBiasKernel<T>, shape, stream, a.x.as<T>(), a.slot_offsets, a.num_slots, a.bias.views);
}

}  // namespace

absl::Status CudaClampedSwiglu(const ClampedSwigluArgs& a, void* stream) {
  return LaunchKernel(ClampedSwigluKernel, {a.out.rows, ThreadsFor(a.out.cols)}, stream, a);
}

absl::Status CudaRelu(const ReluArgs& a, void* stream) {
  return LaunchKernel(ReluKernel, {a.x.rows, ThreadsFor(a.x.cols)}, stream, a);
}

absl::Status CudaAddSlotBias(const AddSlotBiasArgs& a, void* stream) {
  return a.x.dtype == DType::kBF16 ? LaunchAddSlotBias<BF16>(a, stream) : LaunchAddSlotBias<float>(a, stream);
}

}  // namespace tokenferry

#include "comm/ops/exchange_ops.h"
#include "core/device/cuda_launch.cuh"
#include "core/kernels/store.cuh"

namespace tokenferry {
namespace {

// A block per token, a thread per column.
template <class In, class Out>
__global__ void CombineKernel(MatrixView<const In> rows, const int64_t* offsets, const int32_t* selection,
                              const int32_t* k, MatrixView<const float> weight, MatrixView<Out> out) {
  const int64_t t = blockIdx.x, begin = offsets[t], end = offsets[t + 1];
  const float* weights = weight.row(t);
  for (int64_t c = threadIdx.x; c < out.cols; c += blockDim.x) {
    float sum = 0.0f;
    for (int64_t i = begin; i < end; ++i) {
      sum = __fmaf_rn(weights[k[i]], ToFloat(rows.row(selection[i])[c]), sum);
    }
    StoreFloat(sum, out.row(t)[c]);
  }
}

template <class In, class Out>
absl::Status Combine(const CombineRowsArgs& a, void* stream) {
  return LaunchKernel(CombineKernel<In, Out>, {a.out.rows, ThreadsFor(a.out.cols)}, stream, a.rows.as<const In>(),
                      a.offsets, a.selection, a.k, a.weight, a.out.as<Out>());
}

}  // namespace

absl::Status CudaCombineRows(const CombineRowsArgs& a, void* stream) {
  const bool to_bf16 = a.out.dtype == DType::kBF16;
  if (a.rows.dtype == DType::kBF16) return to_bf16 ? Combine<BF16, BF16>(a, stream) : Combine<BF16, float>(a, stream);
  return to_bf16 ? Combine<float, BF16>(a, stream) : Combine<float, float>(a, stream);
}

}  // namespace tokenferry

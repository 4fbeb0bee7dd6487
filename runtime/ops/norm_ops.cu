#include "core/device/cuda_launch.cuh"
#include "core/kernels/copy_async.cuh"
#include "core/kernels/lanes.cuh"
#include "core/kernels/matmul_tile.cuh"
#include "runtime/ops/norm_ops.h"

namespace tokenferry {
namespace {

// A block per row. The sum of squares has 16 lanes by definition, the first warp's, each a chain of a sixteenth of the
// row: so the block first brings the whole row near, with all loads under way at once.
template <class Weight>
__global__ void RmsNormKernel(MatrixView<const float> x, const Weight* __restrict__ weight, float eps,
                              MatrixView<float> out, MatrixView<BF16> rounded) {
  extern __shared__ float shared_row[];  // [cols]
  __shared__ float shared_inverse;
  const float* from = x.row(blockIdx.x);
  for (int64_t i = threadIdx.x; i < x.cols; i += blockDim.x) CopyAsync4(SharedAddress(shared_row + i), from + i);
  CommitCopies();
  WaitForCopies<0>();
  __syncthreads();
  if (threadIdx.x < kWarpSize) {
    const auto value = [&](int64_t i) { return shared_row[i]; };
    const float sum = SumHalfWarp(LaneChain<16>(threadIdx.x % kHalfWarp, x.cols, value, value));
    if (threadIdx.x == 0) {
      const float mean = __fdiv_rn(sum, static_cast<float>(x.cols));
      shared_inverse = __fdiv_rn(1.0f, __fsqrt_rn(__fadd_rn(mean, eps)));
    }
  }
  __syncthreads();
  const float inverse = shared_inverse;
  float* to = out.row(blockIdx.x);
#pragma unroll 4
  for (int64_t i = threadIdx.x; i < x.cols; i += blockDim.x) {
    const float value = __fmul_rn(__fmul_rn(shared_row[i], inverse), weight == nullptr ? 1.0f : ToFloat(weight[i]));
    to[i] = value;
    if (rounded.data != nullptr) rounded.row(blockIdx.x)[i] = ToBF16(value);
  }
}

// A block per row; the two sums have 16 lanes as above. Every thread centres its elements anew, which costs less than
// to keep them.
template <class Weight>
__global__ void LayerNormKernel(LayerNormArgs a) {
  __shared__ float shared_mean, shared_inverse;
  const float* row = a.x.row(blockIdx.x);
  const int64_t cols = a.x.cols;
  if (threadIdx.x < kWarpSize) {
    const int lane = threadIdx.x % kHalfWarp;
    const auto value = [&](int64_t i) { return row[i]; };
    const auto one = [](int64_t) { return 1.0f; };
    const float sum = __shfl_sync(kWholeWarp, SumHalfWarp(LaneChain(lane, cols, value, one)), 0);
    const float mean = __fdiv_rn(sum, static_cast<float>(cols));
    const auto centred = [&](int64_t i) { return __fsub_rn(row[i], mean); };
    const float squares = SumHalfWarp(LaneChain(lane, cols, centred, centred));
    if (threadIdx.x == 0) {
      const float variance = __fdiv_rn(squares, static_cast<float>(cols));
      shared_mean = mean;
      shared_inverse = __fdiv_rn(1.0f, __fsqrt_rn(__fadd_rn(variance, a.eps)));
    }
  }
  __syncthreads();
  const float mean = shared_mean, inverse = shared_inverse;
  const Weight* weight = static_cast<const Weight*>(a.weight);
  float* to = a.out.row(blockIdx.x);
  for (int64_t i = threadIdx.x; i < cols; i += blockDim.x) {
    const float scaled = __fmul_rn(__fmul_rn(__fsub_rn(row[i], mean), inverse), ToFloat(weight[i]));
    const float value = __fadd_rn(scaled, a.bias[i]);
    to[i] = value;
    if (a.rounded.data != nullptr) a.rounded.row(blockIdx.x)[i] = ToBF16(value);
  }
}

// A block per token.
template <class Format>
__global__ void EmbedKernel(const int32_t* ids, WeightView table, MatrixView<float> out) {
  const int64_t from = ids[blockIdx.x];
  float* to = out.row(blockIdx.x);
  for (int64_t i = threadIdx.x; i < table.cols; i += blockDim.x) to[i] = Format::Value(table, from, i);
}

// A block per row.
__global__ void AddKernel(MatrixView<float> x, MatrixView<const float> a, MatrixView<const float> b, float factor) {
  float* to = x.row(blockIdx.x);
  const float* first = a.row(blockIdx.x);
  const float* second = b.data == nullptr ? nullptr : b.row(blockIdx.x);
  for (int64_t i = threadIdx.x; i < x.cols; i += blockDim.x) {
    const float sum = second == nullptr ? first[i] : __fadd_rn(first[i], second[i]);
    to[i] = __fadd_rn(to[i], __fmul_rn(factor, sum));
  }
}

}  // namespace

absl::Status CudaEmbed(const EmbedArgs& a, void* stream) {
  const LaunchShape shape = {a.num_tokens, ThreadsFor(a.table.cols)};
  return LaunchForFormat(a.table.format, [&](auto format) {
    return LaunchKernel(EmbedKernel<decltype(format)>, shape, stream, a.ids, a.table, a.out);
  });
}

absl::Status CudaAdd(const AddArgs& a, void* stream) {
  return LaunchKernel(AddKernel, {a.x.rows, ThreadsFor(a.x.cols)}, stream, a.x, a.a, a.b, a.factor);
}

absl::Status CudaRmsNorm(const RmsNormArgs& a, void* stream) {
  const LaunchShape shape = {a.x.rows, ThreadsFor(a.x.cols), a.x.cols * sizeof(float)};
  if (a.weight_dtype == DType::kF32) {
    return LaunchKernel(RmsNormKernel<float>, shape, stream, a.x, static_cast<const float*>(a.weight), a.eps, a.out,
                        a.rounded);
  }
  return LaunchKernel(RmsNormKernel<BF16>, shape, stream, a.x, static_cast<const BF16*>(a.weight), a.eps, a.out,
                      a.rounded);
}

absl::Status CudaLayerNorm(const LayerNormArgs& a, void* stream) {
  const LaunchShape shape = {a.x.rows, ThreadsFor(a.x.cols)};
  if (a.weight_dtype == DType::kF32) return LaunchKernel(LayerNormKernel<float>, shape, stream, a);
  return LaunchKernel(LayerNormKernel<BF16>, shape, stream, a);
}

}  // namespace tokenferry

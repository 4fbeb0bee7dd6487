#include <cuda_pipeline.h>
#include <cuda_runtime.h>

#include <cstdint>

#include "tests/fakegpu/planted.h"

namespace tokenferry::fakegpu {
namespace {

constexpr int kThreads = kPlantedThreads;

template <bool kBug>
__global__ void ReverseInBlockKernel(const float* in, float* out) {
  __shared__ float values[kThreads];
  values[threadIdx.x] = in[threadIdx.x];
  if (!kBug) __syncthreads();
  out[threadIdx.x] = values[kThreads - 1 - threadIdx.x];
}

template <bool kBug>
__global__ void SumInTilesKernel(const float* in, float* out) {
  __shared__ float tile[kThreads];
  float sum = 0;
  for (int i = 0; i < 3; ++i) {
    tile[threadIdx.x] = in[threadIdx.x] + i;
    __syncthreads();
    sum += tile[(threadIdx.x + 40) % kThreads];
    if (!kBug) __syncthreads();
  }
  out[threadIdx.x] = sum;
}

template <bool kBug>
__global__ void CopyPastEndKernel(const float* in, float* out) {
  for (int i = threadIdx.x; i < kThreads + (kBug ? 1 : 0); i += kThreads) out[i] = in[i % kThreads];
}

template <bool kBug>
__global__ void BarrierUnderDivergenceKernel(const float* in, float* out) {
  const float value = in[threadIdx.x];
  if (kBug) {
    if (threadIdx.x % 2 == 0)
      __syncthreads();
    else
      out[threadIdx.x] = 0;
  } else {
    __syncthreads();
  }
  out[threadIdx.x] = value;
}

template <bool kBug>
__global__ void CopyAsyncKernel(const float* in, float* out) {
  __shared__ float values[kThreads];
  __pipeline_memcpy_async(&values[threadIdx.x], &in[threadIdx.x], sizeof(float));
  __pipeline_commit();
  if (!kBug) __pipeline_wait_prior(0);
  __syncthreads();
  out[threadIdx.x] = values[kThreads - 1 - threadIdx.x];
  if (kBug) __pipeline_wait_prior(0);
}

template <bool kBug>
__global__ void CopyAsyncInTilesKernel(const float* in, float* out) {
  __shared__ float tile[kThreads];
  float sum = 0;
  for (int i = 0; i < 3; ++i) {
    __pipeline_memcpy_async(&tile[threadIdx.x], &in[(threadIdx.x + i) % kThreads], sizeof(float));
    __pipeline_commit();
    __pipeline_wait_prior(0);
    __syncthreads();
    sum += tile[(threadIdx.x + 40) % kThreads];
    if (!kBug) __syncthreads();
  }
  out[threadIdx.x] = sum;
}

template <bool kBug>
__global__ void LoadMatrixKernel(const float* in, float* out) {
  __shared__ alignas(16) float rows[kThreads];
  rows[threadIdx.x] = in[threadIdx.x];
  if (!kBug) __syncthreads();
  uint32_t got;
  const auto address = static_cast<uint32_t>(__cvta_generic_to_shared(&rows[threadIdx.x % 8 * 4]));
  asm volatile("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%0}, [%1];" : "=r"(got) : "r"(address) : "memory");
  out[threadIdx.x] = __uint_as_float(got);
}

template <bool kBug>
__global__ void ReadUnwrittenSharedKernel(const float* in, float* out) {
  __shared__ float values[kThreads];
  if (!kBug || threadIdx.x != 7) values[threadIdx.x] = in[threadIdx.x];
  __syncthreads();
  out[threadIdx.x] = values[threadIdx.x];
}

template <bool kBug>
__global__ void ReverseInWarpKernel(const float* in, float* out) {
  __shared__ volatile float values[kThreads];
  values[threadIdx.x] = in[threadIdx.x];
  if (!kBug) __syncwarp();
  out[threadIdx.x] = values[threadIdx.x ^ 1];
}

template <bool kBug>
__global__ void ShuffleOfTooManyKernel(const float* in, float* out) {
  float value = in[threadIdx.x];
  if (threadIdx.x % 32 < 16) {
    value = __shfl_xor_sync(kBug ? 0xFFFFFFFF : 0xFFFF, value, 1);
    out[threadIdx.x] = value;
    return;
  }
  out[threadIdx.x] = value;
}

template <bool kBug>
__global__ void LoadMisalignedKernel(const float* in, float* out) {
  if (threadIdx.x >= kThreads / 4 - 1) return;
  const float4 v = reinterpret_cast<const float4*>(in + (kBug ? 1 : 0))[threadIdx.x];
  out[threadIdx.x] = v.x + v.w;
}

template <bool kBug>
__global__ void LeaveBeforeBarrierKernel(const float* in, float* out) {
  if (kBug && threadIdx.x >= 64) return;
  const float value = in[threadIdx.x];
  __syncthreads();
  out[threadIdx.x] = value;
}

__global__ void DoubleAllKernel(const float* in, float* out, int size) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < size) out[i] = 2 * in[i];
}

__global__ void EmptyKernel() {}

}  // namespace

#define TF_PLANTED(Name)                                                 \
  void Name(Bug bug, const float* in, float* out, cudaStream_t stream) { \
    if (bug == Bug::kNone)                                               \
      Name##Kernel<false><<<1, kThreads, 0, stream>>>(in, out);          \
    else                                                                 \
      Name##Kernel<true><<<1, kThreads, 0, stream>>>(in, out);           \
  }
TF_PLANTED(ReverseInBlock)
TF_PLANTED(SumInTiles)
TF_PLANTED(CopyPastEnd)
TF_PLANTED(BarrierUnderDivergence)
TF_PLANTED(CopyAsync)
TF_PLANTED(CopyAsyncInTiles)
TF_PLANTED(LoadMatrix)
TF_PLANTED(ReadUnwrittenShared)
TF_PLANTED(ReverseInWarp)
TF_PLANTED(ShuffleOfTooMany)
TF_PLANTED(LoadMisaligned)
TF_PLANTED(LeaveBeforeBarrier)
#undef TF_PLANTED

void DoubleAll(const float* in, float* out, int size, cudaStream_t stream) {
  DoubleAllKernel<<<(size + 63) / 64, 64, 0, stream>>>(in, out, size);
}

cudaError_t LaunchEmpty(unsigned blocks, unsigned threads, size_t shared_bytes, cudaStream_t stream) {
  EmptyKernel<<<blocks, threads, shared_bytes, stream>>>();
  return cudaGetLastError();
}

cudaError_t AllowShared(int num_bytes) {
  return cudaFuncSetAttribute(EmptyKernel, cudaFuncAttributeMaxDynamicSharedMemorySize, num_bytes);
}

}  // namespace tokenferry::fakegpu

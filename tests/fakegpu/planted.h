// Kernels with a bug each, and without it: what the interpreter must find, and must not.
#pragma once

#include <cuda_runtime_api.h>

namespace tokenferry::fakegpu {

enum class Bug { kNone, kPlanted };

// Each runs on one block of kPlantedThreads threads; `in` and `out` have one value per thread.
inline constexpr int kPlantedThreads = 96;
using PlantedKernel = void (*)(Bug bug, const float* in, float* out, cudaStream_t stream);

void ReverseInBlock(Bug, const float* in, float* out, cudaStream_t);  // no __syncthreads between write and read
void SumInTiles(Bug, const float* in, float* out, cudaStream_t);   // no __syncthreads before the tile is filled again
void CopyPastEnd(Bug, const float* in, float* out, cudaStream_t);  // one more than there are
void BarrierUnderDivergence(Bug, const float* in, float* out, cudaStream_t);
void CopyAsync(Bug, const float* in, float* out, cudaStream_t);         // no wait for cp.async
void CopyAsyncInTiles(Bug, const float* in, float* out, cudaStream_t);  // cp.async into what others still read
void LoadMatrix(Bug, const float* in, float* out, cudaStream_t);        // ldmatrix without a barrier
void ReadUnwrittenShared(Bug, const float* in, float* out, cudaStream_t);
void ReverseInWarp(Bug, const float* in, float* out, cudaStream_t);     // no __syncwarp
void ShuffleOfTooMany(Bug, const float* in, float* out, cudaStream_t);  // a member mask that names lanes elsewhere
void LoadMisaligned(Bug, const float* in, float* out, cudaStream_t);
void LeaveBeforeBarrier(Bug, const float* in, float* out, cudaStream_t);  // some threads end, the others wait for them

// out[i] = 2 in[i]; right.
void DoubleAll(const float* in, float* out, int size, cudaStream_t stream);
// A launch of these dimensions, which writes nothing.
cudaError_t LaunchEmpty(unsigned blocks, unsigned threads, size_t shared_bytes, cudaStream_t stream);
cudaError_t AllowShared(int num_bytes);

}  // namespace tokenferry::fakegpu

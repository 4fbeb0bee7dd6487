// What every .cu file launches its kernels with.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <mutex>
#include <tuple>

#include "core/device/cuda_status.h"
#include "core/round_up.h"

namespace tokenferry {

constexpr int kWarpSize = 32;
constexpr unsigned kWholeWarp = 0xFFFFFFFFu;

struct LaunchShape {
  int64_t num_blocks = 0;    // along x; 0: there is no work, nothing is launched (CUDA refuses an empty grid)
  int threads = 0;           // per block, at most 1024
  size_t shared_bytes = 0;   // dynamic shared memory
  int64_t num_blocks_y = 1;  // at most 65535
};

// What a block of the current device may have of shared memory, static and dynamic.
inline absl::StatusOr<size_t> MostSharedBytes() {
  int device = 0, num_bytes = 0;
  TF_RETURN_IF_CUDA_ERROR(cudaGetDevice(&device));
  TF_RETURN_IF_CUDA_ERROR(cudaDeviceGetAttribute(&num_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
  return static_cast<size_t>(num_bytes);
}

// Lets `kernel` have so much dynamic shared memory on the current device; ResourceExhausted where no block has it. The
// limit is the kernel's, of all threads of the process: it only grows, so that no rank takes away what another one is
// about to launch with.
inline absl::Status AllowSharedMemory(const void* kernel, size_t num_bytes) {
  static std::mutex mutex;
  const std::lock_guard<std::mutex> lock(mutex);
  cudaFuncAttributes attributes;
  TF_RETURN_IF_CUDA_ERROR(cudaFuncGetAttributes(&attributes, kernel));
  if (static_cast<int64_t>(num_bytes) <= attributes.maxDynamicSharedSizeBytes) return absl::OkStatus();
  TF_ASSIGN_OR_RETURN(const size_t most, MostSharedBytes());
  if (num_bytes + attributes.sharedSizeBytes > most) {
    return absl::ResourceExhaustedError(absl::StrCat("a block of threads takes ",
                                                     num_bytes + attributes.sharedSizeBytes,
                                                     " bytes of shared memory, and has ", most, " on this GPU"));
  }
  return CudaStatus(
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(num_bytes)),
      "cudaFuncSetAttribute");
}

// Enqueues kernel(args ..) on `stream`, a cudaStream_t. Arguments are converted to the kernel's parameter types and
// copied.
template <class... Params, class... Args>
absl::Status LaunchKernel(void (*kernel)(Params...), const LaunchShape& shape, void* stream, const Args&... args) {
  constexpr size_t kUnasked = 40 << 10;  // a block has 48 KiB without asking, with what is static
  if (shape.num_blocks == 0 || shape.num_blocks_y == 0) return absl::OkStatus();
  if (shape.num_blocks > INT32_MAX || shape.num_blocks_y > 65535) {
    return absl::ResourceExhaustedError(
        absl::StrCat("a grid of ", shape.num_blocks, " x ", shape.num_blocks_y, " blocks is beyond CUDA's limits"));
  }
  const auto* function = reinterpret_cast<const void*>(kernel);
  if (shape.shared_bytes > kUnasked) {
    TF_RETURN_IF_ERROR(AllowSharedMemory(function, shape.shared_bytes));
  }
  std::tuple<Params...> values(static_cast<Params>(args)...);
  return std::apply(
      [&](Params&... value) {
        void* pointers[] = {&value...};
        const dim3 grid(static_cast<unsigned>(shape.num_blocks), static_cast<unsigned>(shape.num_blocks_y));
        return CudaStatus(cudaLaunchKernel(function, grid, dim3(shape.threads), pointers, shape.shared_bytes,
                                           static_cast<cudaStream_t>(stream)),
                          "cudaLaunchKernel");
      },
      values);
}

// Threads for a block that works on `num_items` side by side: whole warps, at most 256.
inline int ThreadsFor(int64_t num_items) {
  const int64_t whole = CeilDiv(num_items, kWarpSize) * kWarpSize;
  return static_cast<int>(whole < kWarpSize ? kWarpSize : whole > 256 ? 256 : whole);
}

}  // namespace tokenferry

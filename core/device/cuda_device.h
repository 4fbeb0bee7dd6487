// Device on one NVIDIA GPU. This header needs no CUDA toolkit: a build without one has a stub that says so.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "core/device/device.h"

namespace tokenferry {

struct CudaDeviceOptions {
  int ordinal = 0;  // as in cudaSetDevice; a rank uses one GPU, ranks may share one
};

// Memory: kDevice is cudaMalloc's, kHost is cudaMallocHost's. Freeing it, and letting go of what was imported, waits
// for each stream within its limits first (Stream::SetWait); where they have ended a wait the memory is kept, or stays
// mapped, since work that was given up may still use it. An operation without a cuda launcher is a sticky Unimplemented
// error, with its name. Errors of the GPU come up at the next Synchronize and make every stream fail. One thread at a
// time may use the device, any thread. Fails, with a message that starts with "no CUDA device: ", when there is none,
// with Unimplemented when this build has no CUDA.
absl::StatusOr<std::unique_ptr<Device>> CreateCudaDevice(CudaDeviceOptions options);

// Bytes that could be allocated there now, by whoever uses that GPU. It becomes the current GPU of this thread.
absl::StatusOr<int64_t> AvailableGpuBytes(int ordinal);

// A number for each GPU that this process may use, by ordinal: from the GPU's UUID, so that processes of one host know
// which they share. Empty where there is no GPU, no driver that can run this program, or no CUDA in this build.
std::vector<int64_t> VisibleGpus();

}  // namespace tokenferry

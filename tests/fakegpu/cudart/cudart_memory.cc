// Allocation, copies, fills, memory of other processes.
#include <unistd.h>

#include <cstring>

#include "tests/fakegpu/cudart/runtime.h"

using namespace tokenferry::fakegpu;  // NOLINT: entry points of C

namespace {

static_assert(sizeof(DeviceMemory::Handle) <= sizeof(cudaIpcMemHandle_t));

// Pageable memory of the host is read before the call returns, and written before it returns; pinned memory when the
// stream comes to it. Bounds are checked when the copy runs, as a kernel's are.
cudaError_t EnqueueCopy(Runtime& runtime, void* dst, const void* src, size_t num_bytes, QueueStream& stream) {
  if (num_bytes == 0) return cudaSuccess;
  const bool src_pageable = runtime.memory.PlaceOf(src) == MemoryPlace::kPageable;
  const bool dst_pageable = runtime.memory.PlaceOf(dst) == MemoryPlace::kPageable;
  if (stream.capture != nullptr && (src_pageable || dst_pageable)) {
    stream.capture->valid = false;
    return cudaErrorStreamCaptureUnsupported;
  }
  if (src_pageable) {
    const auto staged =
        std::make_shared<std::vector<char>>(static_cast<const char*>(src), static_cast<const char*>(src) + num_bytes);
    runtime.queue.Enqueue(stream, "copy from pageable memory", [&runtime, dst, staged] {
      std::memcpy(runtime.memory.HostView(dst, staged->size()), staged->data(), staged->size());
    });
  } else {
    runtime.queue.Enqueue(stream, "copy", [&runtime, dst, src, num_bytes] {
      std::memmove(runtime.memory.HostView(dst, num_bytes), runtime.memory.HostView(src, num_bytes), num_bytes);
    });
  }
  if (dst_pageable) runtime.queue.Finish(stream.last);
  return cudaSuccess;
}

cudaError_t EnqueueFill(Runtime& runtime, void* dst, int value, size_t num_bytes, QueueStream& stream) {
  if (num_bytes == 0) return cudaSuccess;
  runtime.queue.Enqueue(stream, "fill", [&runtime, dst, value, num_bytes] {
    std::memset(runtime.memory.HostView(dst, num_bytes), value, num_bytes);
  });
  return cudaSuccess;
}

}  // namespace

extern "C" {

cudaError_t cudaMalloc(void** data, size_t num_bytes) {
  return Call([&](Runtime& runtime) {
    if (SpoilsCapture(runtime)) return cudaErrorStreamCaptureUnsupported;
    *data = num_bytes == 0 ? nullptr : runtime.memory.Allocate(num_bytes);
    return *data == nullptr && num_bytes > 0 ? cudaErrorMemoryAllocation : cudaSuccess;
  });
}

cudaError_t cudaFree(void* data) {
  return Call([&](Runtime& runtime) {
    if (data == nullptr) return cudaSuccess;
    if (SpoilsCapture(runtime)) return cudaErrorStreamCaptureUnsupported;
    runtime.queue.FinishAll(current_device);
    return runtime.memory.Free(data) ? cudaSuccess : cudaErrorInvalidValue;
  });
}

cudaError_t cudaHostAlloc(void** data, size_t num_bytes, unsigned) {
  return Call([&](Runtime& runtime) {
    if (SpoilsCapture(runtime)) return cudaErrorStreamCaptureUnsupported;
    *data = runtime.memory.AllocatePinned(num_bytes);
    return *data == nullptr ? cudaErrorMemoryAllocation : cudaSuccess;
  });
}
cudaError_t cudaMallocHost(void** data, size_t num_bytes) { return cudaHostAlloc(data, num_bytes, 0); }

cudaError_t cudaFreeHost(void* data) {
  return Call([&](Runtime& runtime) {
    if (data == nullptr) return cudaSuccess;
    runtime.queue.FinishAll(current_device);
    return runtime.memory.FreePinned(data) ? cudaSuccess : cudaErrorInvalidValue;
  });
}

cudaError_t cudaHostGetDevicePointer(void** device, void* host, unsigned) {
  return Call([&](Runtime& runtime) {
    *device = host;
    return runtime.memory.PlaceOf(host) == MemoryPlace::kPinned ? cudaSuccess : cudaErrorInvalidValue;
  });
}

cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* data) {
  return Call([&](Runtime& runtime) {
    *attributes = {};
    switch (runtime.memory.PlaceOf(data)) {
      case MemoryPlace::kPageable:
        attributes->type = cudaMemoryTypeUnregistered;
        break;
      case MemoryPlace::kPinned:
        attributes->type = cudaMemoryTypeHost;
        break;
      case MemoryPlace::kDevice:
        attributes->type = cudaMemoryTypeDevice;
        break;
    }
    return cudaSuccess;
  });
}

cudaError_t cudaMemGetInfo(size_t* free_bytes, size_t* total_bytes) {
  return Call([&](Runtime& runtime) {
    *free_bytes = runtime.memory.free_bytes();
    *total_bytes = DeviceMemory::kTotalBytes;
    return cudaSuccess;
  });
}

cudaError_t cudaMemcpyAsync(void* dst, const void* src, size_t num_bytes, cudaMemcpyKind, cudaStream_t stream) {
  return Call([&](Runtime& runtime) { return EnqueueCopy(runtime, dst, src, num_bytes, StreamOf(runtime, stream)); });
}

cudaError_t cudaMemcpy(void* dst, const void* src, size_t num_bytes, cudaMemcpyKind) {
  return Call([&](Runtime& runtime) {
    if (SpoilsCapture(runtime)) return cudaErrorStreamCaptureUnsupported;
    const cudaError_t error = EnqueueCopy(runtime, dst, src, num_bytes, runtime.queue.legacy(current_device));
    runtime.queue.Finish(runtime.queue.legacy(current_device).last);
    return error;
  });
}

cudaError_t cudaMemsetAsync(void* dst, int value, size_t num_bytes, cudaStream_t stream) {
  return Call([&](Runtime& runtime) { return EnqueueFill(runtime, dst, value, num_bytes, StreamOf(runtime, stream)); });
}

cudaError_t cudaMemset(void* dst, int value, size_t num_bytes) {
  return cudaMemsetAsync(dst, value, num_bytes, nullptr);
}

cudaError_t cudaIpcGetMemHandle(cudaIpcMemHandle_t* handle, void* data) {
  return Call([&](Runtime& runtime) {
    DeviceMemory::Handle own;
    if (!runtime.memory.HandleOf(data, &own)) return cudaErrorInvalidValue;
    *handle = {};
    std::memcpy(handle, &own, sizeof own);
    return cudaSuccess;
  });
}

cudaError_t cudaIpcOpenMemHandle(void** data, cudaIpcMemHandle_t handle, unsigned) {
  return Call([&](Runtime& runtime) {
    DeviceMemory::Handle theirs;
    std::memcpy(static_cast<void*>(&theirs), &handle, sizeof theirs);
    if (!runtime.allows_ipc) return cudaErrorMapBufferObjectFailed;
    if (SpoilsCapture(runtime)) return cudaErrorStreamCaptureUnsupported;
    if (theirs.process == getpid()) return cudaErrorDeviceUninitialized;  // only other processes may open it
    *data = runtime.memory.Map(theirs);
    return *data == nullptr ? cudaErrorMapBufferObjectFailed : cudaSuccess;
  });
}

cudaError_t cudaIpcCloseMemHandle(void* data) {
  return Call([&](Runtime& runtime) {
    runtime.queue.FinishAll(current_device);
    return runtime.memory.Unmap(data) ? cudaSuccess : cudaErrorInvalidValue;
  });
}

}  // extern "C"

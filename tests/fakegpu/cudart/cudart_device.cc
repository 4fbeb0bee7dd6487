// The device and errors.
#include <cstdio>
#include <cstring>

#include "tests/fakegpu/cudart/runtime.h"

using namespace tokenferry::fakegpu;  // NOLINT: entry points of C

extern "C" {

cudaError_t cudaGetDeviceCount(int* count) {
  *count = Runtime::Get().num_devices;
  return cudaSuccess;
}

cudaError_t cudaGetDevice(int* device) {
  *device = current_device;
  return cudaSuccess;
}

cudaError_t cudaSetDevice(int device) {
  return Call([&](Runtime& runtime) {
    if (device < 0 || device >= runtime.num_devices) return cudaErrorInvalidDevice;
    current_device = device;
    return cudaSuccess;
  });
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
  return Call([&](Runtime& runtime) {
    if (device < 0 || device >= runtime.num_devices) return cudaErrorInvalidDevice;
    *properties = {};
    properties->uuid.bytes[0] = static_cast<char>(device + 1);
    std::snprintf(properties->name, sizeof properties->name, "fake GPU: PTX of sm_%d executed on the CPU",
                  runtime.arch);
    properties->totalGlobalMem = DeviceMemory::kTotalBytes;
    properties->sharedMemPerBlock = 48 << 10;
    properties->sharedMemPerBlockOptin = runtime.max_shared_bytes;
    properties->major = runtime.arch / 10;
    properties->minor = runtime.arch % 10;
    properties->warpSize = 32;
    properties->maxThreadsPerBlock = 1024;
    properties->multiProcessorCount = 4;
    return cudaSuccess;
  });
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  return Call([&](Runtime& runtime) {
    if (device < 0 || device >= runtime.num_devices) return cudaErrorInvalidDevice;
    switch (attribute) {
      case cudaDevAttrComputeCapabilityMajor:
        *value = runtime.arch / 10;
        return cudaSuccess;
      case cudaDevAttrComputeCapabilityMinor:
        *value = runtime.arch % 10;
        return cudaSuccess;
      case cudaDevAttrMultiProcessorCount:
        *value = 4;
        return cudaSuccess;
      case cudaDevAttrMaxSharedMemoryPerBlockOptin:
        *value = static_cast<int>(runtime.max_shared_bytes);
        return cudaSuccess;
      default:
        return cudaErrorNotSupported;
    }
  });
}

// The devices share one memory: nothing is to be done.
cudaError_t cudaDeviceEnablePeerAccess(int peer, unsigned) {
  return Call([&](Runtime& runtime) {
    return peer < 0 || peer >= runtime.num_devices || peer == current_device ? cudaErrorInvalidDevice : cudaSuccess;
  });
}

cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = CUDART_VERSION;
  return cudaSuccess;
}
cudaError_t cudaDriverGetVersion(int* version) { return cudaRuntimeGetVersion(version); }

cudaError_t cudaDeviceSynchronize() {
  return Call([&](Runtime& runtime) {
    if (SpoilsCapture(runtime)) return cudaErrorStreamCaptureUnsupported;
    runtime.queue.FinishAll(current_device);
    return cudaSuccess;
  });
}

cudaError_t cudaGetLastError() {
  const cudaError_t error = last_error;
  last_error = Runtime::Get().sticky;
  return error;
}
cudaError_t cudaPeekAtLastError() { return last_error; }

const char* cudaGetErrorName(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return "cudaSuccess";
    case cudaErrorInvalidValue:
      return "cudaErrorInvalidValue";
    case cudaErrorMemoryAllocation:
      return "cudaErrorMemoryAllocation";
    case cudaErrorInvalidConfiguration:
      return "cudaErrorInvalidConfiguration";
    case cudaErrorInvalidDeviceFunction:
      return "cudaErrorInvalidDeviceFunction";
    case cudaErrorInvalidDevice:
      return "cudaErrorInvalidDevice";
    case cudaErrorInvalidResourceHandle:
      return "cudaErrorInvalidResourceHandle";
    case cudaErrorNoKernelImageForDevice:
      return "cudaErrorNoKernelImageForDevice";
    case cudaErrorNotReady:
      return "cudaErrorNotReady";
    case cudaErrorNotSupported:
      return "cudaErrorNotSupported";
    case cudaErrorLaunchFailure:
      return "cudaErrorLaunchFailure";
    case cudaErrorStreamCaptureUnsupported:
      return "cudaErrorStreamCaptureUnsupported";
    case cudaErrorStreamCaptureIsolation:
      return "cudaErrorStreamCaptureIsolation";
    case cudaErrorStreamCaptureUnjoined:
      return "cudaErrorStreamCaptureUnjoined";
    default:
      return "an error of the fake CUDA runtime";
  }
}
const char* cudaGetErrorString(cudaError_t error) {
  return error == cudaErrorLaunchFailure ? "a kernel or copy broke a rule, see stderr" : cudaGetErrorName(error);
}

}  // extern "C"

#include "core/device/cuda_device.h"

#include <cuda_runtime_api.h>

#include <cstdlib>
#include <cstring>

#include "core/device/cuda_status.h"
#include "core/device/cuda_stream.h"
#include "core/device/exported_memory.h"
#include "core/log.h"

namespace tokenferry {
namespace {

// A kernel that waits for another rank may run only where CUDA loads all kernels at the start: to load one at its first
// launch it may wait for what the GPU does (CUDA C++ Programming Guide, Lazy Loading, Concurrent Execution). Set before
// main, since CUDA reads it at its first call, and no thread asks for the environment yet. The user's own setting
// stays.
[[maybe_unused]] const int kModuleLoading = setenv("CUDA_MODULE_LOADING", "EAGER", /*overwrite=*/0);

struct CudaExport {
  ExportedMemory memory;
  int ordinal = 0;  // as that process counts
  cudaIpcMemHandle_t handle = {};
};

class CudaDevice : public Device {
 public:
  CudaDevice(int ordinal, std::string name) : ordinal_(ordinal), name_(std::move(name)) {}

  DeviceKind kind() const override { return DeviceKind::kCuda; }
  std::string ToString() const override { return absl::StrCat("cuda:", ordinal_, " (", name_, ")"); }

  absl::StatusOr<std::unique_ptr<Stream>> CreateStream() override {
    TF_RETURN_IF_CUDA_ERROR(cudaSetDevice(ordinal_));
    cudaStream_t stream = nullptr;
    TF_RETURN_IF_CUDA_ERROR(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    return std::make_unique<CudaStream>(*this, ordinal_, stream, streams_);
  }

  absl::StatusOr<std::unique_ptr<Event>> CreateEvent() override {
    TF_RETURN_IF_CUDA_ERROR(cudaSetDevice(ordinal_));
    cudaEvent_t event = nullptr;
    TF_RETURN_IF_CUDA_ERROR(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
    return std::make_unique<CudaEvent>(event, streams_);
  }

  absl::StatusOr<std::string> Export(const Buffer& buffer) override {
    TF_RETURN_IF_CUDA_ERROR(cudaSetDevice(ordinal_));
    CudaExport out{.memory = {ThisProcessToken(), buffer.data()}, .ordinal = ordinal_};
    TF_RETURN_IF_CUDA_ERROR(cudaIpcGetMemHandle(&out.handle, buffer.data()));
    return EncodeExported(out);
  }

  absl::StatusOr<std::shared_ptr<void>> Import(absl::string_view exported) override {
    TF_ASSIGN_OR_RETURN(const auto theirs, DecodeExported<CudaExport>(exported));
    TF_RETURN_IF_CUDA_ERROR(cudaSetDevice(ordinal_));
    if (theirs.memory.process == ThisProcessToken()) {  // CUDA refuses the handle of a process to itself
      // cudaFree and cudaDeviceSynchronize of one would wait for a kernel of the other that waits for the one's next.
      if (theirs.ordinal == ordinal_) {
        return absl::FailedPreconditionError(
            absl::StrCat("ranks that are threads of one process share ", ToString(),
                         ", where work of one cannot wait for work of the other: start them with mpirun, or exchange "
                         "messages (path alltoallv)"));
      }
      TF_RETURN_IF_ERROR(EnablePeerAccess(theirs.ordinal));
      KeepExported(theirs.memory.data);
      return std::shared_ptr<void>(theirs.memory.data, [this](void* data) {
        if (CompletesWork("letting go of another rank's memory")) LetGoOfExported(data);
      });
    }
    void* data = nullptr;
    const cudaError_t error = cudaIpcOpenMemHandle(&data, theirs.handle, cudaIpcMemLazyEnablePeerAccess);
    if (error != cudaSuccess) {
      cudaGetLastError();  // not sticky: a later launch must not find it
      return absl::FailedPreconditionError(absl::StrCat(
          CudaStatus(error, "cudaIpcOpenMemHandle").message(), ": ", ToString(),
          " cannot map another rank's GPU memory (containers need one IPC and PID namespace, as docker run "
          "--ipc=host --pid=host gives; GPUs need peer access)"));
    }
    return std::shared_ptr<void>(data, [this](void* mapped) {
      if (!CompletesWork("unmapping another rank's memory")) return;
      streams_.WarnOnce(cudaIpcCloseMemHandle(mapped), "cudaIpcCloseMemHandle");
    });
  }

 protected:
  absl::StatusOr<void*> AllocateMemory(size_t num_bytes, MemoryKind kind) override {
    TF_RETURN_IF_CUDA_ERROR(cudaSetDevice(ordinal_));
    void* data = nullptr;
    const cudaError_t error =
        kind == MemoryKind::kDevice ? cudaMalloc(&data, num_bytes) : cudaMallocHost(&data, num_bytes);
    if (error == cudaErrorMemoryAllocation) cudaGetLastError();  // not sticky: a later launch must not find it
    TF_RETURN_IF_ERROR(CudaStatus(error, kind == MemoryKind::kDevice ? "cudaMalloc" : "cudaMallocHost"));
    return data;
  }

  void FreeMemory(void* data, size_t, MemoryKind kind) override {
    if (!CompletesWork("free of a buffer")) return;
    if (kind == MemoryKind::kHost) return streams_.WarnOnce(cudaFreeHost(data), "cudaFreeHost");
    ReleaseExported(data, [data, ordinal = ordinal_] {
      WarnOnCudaError(cudaSetDevice(ordinal), "cudaSetDevice");
      WarnOnCudaError(cudaFree(data), "cudaFree");
    });
  }

 private:
  // Whether the device has completed all work, before memory that it may use goes. CUDA frees and unmaps when the whole
  // GPU is idle, however long that takes: first every stream is waited for within its own limits. False when one has
  // been given up: what it may still use has to stay.
  bool CompletesWork(absl::string_view before_what) {
    if (streams_.any_abandoned) return false;
    for (CudaStream* stream : streams_.live) {
      if (!stream->WaitToFree()) return false;
    }
    cudaError_t error = cudaSetDevice(ordinal_);
    if (error == cudaSuccess) error = cudaDeviceSynchronize();
    streams_.WarnOnce(error, before_what);
    return error == cudaSuccess;
  }

  // To a GPU of this process.
  absl::Status EnablePeerAccess(int ordinal) {
    if (ordinal == ordinal_) return absl::OkStatus();
    const cudaError_t error = cudaDeviceEnablePeerAccess(ordinal, 0);
    cudaGetLastError();
    if (error == cudaSuccess || error == cudaErrorPeerAccessAlreadyEnabled) return absl::OkStatus();
    return absl::FailedPreconditionError(absl::StrCat(ToString(), " cannot reach the memory of cuda:", ordinal, ": ",
                                                      CudaStatus(error, "cudaDeviceEnablePeerAccess").message()));
  }

  const int ordinal_;
  const std::string name_;
  CudaStreams streams_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Device>> CreateCudaDevice(CudaDeviceOptions options) {
  int num_devices = 0;
  TF_RETURN_IF_ERROR(Annotate(CudaStatus(cudaGetDeviceCount(&num_devices), "cudaGetDeviceCount"), "no CUDA device"));
  if (options.ordinal < 0 || options.ordinal >= num_devices) {
    return absl::InvalidArgumentError(
        absl::StrCat("no CUDA device: number ", options.ordinal, " was asked for, but there are ", num_devices));
  }
  cudaDeviceProp properties;
  TF_RETURN_IF_ERROR(Annotate(
      CudaStatus(cudaGetDeviceProperties(&properties, options.ordinal), "cudaGetDeviceProperties"), "no CUDA device"));
  TF_RETURN_IF_ERROR(Annotate(CudaStatus(cudaSetDevice(options.ordinal), "cudaSetDevice"), "no CUDA device"));
  return std::make_unique<CudaDevice>(options.ordinal, properties.name);
}

absl::StatusOr<int64_t> AvailableGpuBytes(int ordinal) {
  TF_RETURN_IF_CUDA_ERROR(cudaSetDevice(ordinal));
  size_t free_bytes = 0, total_bytes = 0;
  TF_RETURN_IF_CUDA_ERROR(cudaMemGetInfo(&free_bytes, &total_bytes));
  return static_cast<int64_t>(free_bytes);
}

std::vector<int64_t> VisibleGpus() {
  int num_devices = 0;
  if (cudaGetDeviceCount(&num_devices) != cudaSuccess) num_devices = 0;
  std::vector<int64_t> gpus;
  for (int ordinal = 0; ordinal < num_devices; ++ordinal) {
    cudaDeviceProp properties;
    if (cudaGetDeviceProperties(&properties, ordinal) != cudaSuccess) return {};
    int64_t halves[2];
    static_assert(sizeof(halves) == sizeof(properties.uuid));
    std::memcpy(halves, &properties.uuid, sizeof(halves));
    gpus.push_back(halves[0] ^ halves[1]);
  }
  return gpus;
}

}  // namespace tokenferry

#include "core/device/cuda_device.h"

namespace tokenferry {

absl::StatusOr<std::unique_ptr<Device>> CreateCudaDevice(CudaDeviceOptions) {
  return absl::UnimplementedError(
      "no CUDA device: this program was built without CUDA (configure with TOKENFERRY_CUDA=ON, preset 'cuda')");
}

absl::StatusOr<int64_t> AvailableGpuBytes(int) { return absl::UnimplementedError("no CUDA device"); }

std::vector<int64_t> VisibleGpus() { return {}; }

}  // namespace tokenferry

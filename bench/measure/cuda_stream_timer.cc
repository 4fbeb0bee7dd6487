#include <vector>

#include "bench/measure/stream_timer.h"
#include "core/device/cuda_status.h"

namespace tokenferry {
namespace {

class CudaStreamTimer : public StreamTimer {
 public:
  ~CudaStreamTimer() override {
    for (cudaEvent_t event : events_) cudaEventDestroy(event);  // fails only where the GPU has failed before
  }

  // On the device that is current: the thread's own, on which its streams were made.
  absl::Status CreateEvents(int num_points) {
    for (int i = 0; i < num_points; ++i) {
      cudaEvent_t event = nullptr;
      TF_RETURN_IF_CUDA_ERROR(cudaEventCreate(&event));
      events_.push_back(event);
    }
    return absl::OkStatus();
  }

  absl::Status Mark(Stream& stream, int point) override {
    TF_RETURN_IF_CUDA_ERROR(cudaEventRecord(events_[point], static_cast<cudaStream_t>(stream.native())));
    return absl::OkStatus();
  }
  absl::StatusOr<double> Seconds(int from, int to) const override {
    float milliseconds = 0;
    TF_RETURN_IF_CUDA_ERROR(cudaEventElapsedTime(&milliseconds, events_[from], events_[to]));
    return static_cast<double>(milliseconds) * 1e-3;
  }

 private:
  std::vector<cudaEvent_t> events_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<StreamTimer>> CreateCudaStreamTimer(int num_points) {
  auto timer = std::make_unique<CudaStreamTimer>();
  TF_RETURN_IF_ERROR(timer->CreateEvents(num_points));
  return timer;
}

}  // namespace tokenferry

#include "bench/measure/stream_timer.h"

#include <vector>

#include "core/host/clock.h"

namespace tokenferry {
namespace {

class HostStreamTimer : public StreamTimer {
 public:
  explicit HostStreamTimer(int num_points) : nanos_(num_points, 0) {}

  absl::Status Mark(Stream& stream, int point) override {
    TF_RETURN_IF_ERROR(stream.Synchronize());
    nanos_[point] = SteadyNanos();
    return absl::OkStatus();
  }
  absl::StatusOr<double> Seconds(int from, int to) const override {
    return static_cast<double>(nanos_[to] - nanos_[from]) * 1e-9;
  }

 private:
  std::vector<int64_t> nanos_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<StreamTimer>> StreamTimer::Create(Device& device, int num_points) {
  if (device.kind() == DeviceKind::kCuda) return CreateCudaStreamTimer(num_points);
  return std::make_unique<HostStreamTimer>(num_points);
}

}  // namespace tokenferry

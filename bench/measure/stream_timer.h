// When a stream's work reaches a point: on a GPU by its own clock (CUDA events), where the time that the host takes to
// enqueue counts only as far as the GPU waits for it; on a CPU by the host's.
#pragma once

#include <memory>

#include "core/device/device.h"

namespace tokenferry {

class StreamTimer {
 public:
  // With points 0 .. num_points - 1, for streams of `device`.
  static absl::StatusOr<std::unique_ptr<StreamTimer>> Create(Device& device, int num_points);
  virtual ~StreamTimer() = default;

  // Enqueues: point `point` is reached when what `stream` holds is done. On a CPU waits for that. May be repeated; the
  // last time counts.
  virtual absl::Status Mark(Stream& stream, int point) = 0;
  // Between two points that have been reached: their streams were waited for after Mark.
  virtual absl::StatusOr<double> Seconds(int from, int to) const = 0;
};

// Of a CUDA device. Unimplemented in a build without CUDA.
absl::StatusOr<std::unique_ptr<StreamTimer>> CreateCudaStreamTimer(int num_points);

}  // namespace tokenferry

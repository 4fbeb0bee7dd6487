// Baselines that work on the device's own memory, timed by its clock: plain copies, and on GPUs NCCL's sends and
// receives without anything around them.
#pragma once

#include <memory>

#include "bench/alltoall/baselines.h"

namespace tokenferry {

// kMemcpy, kNcclSendRecv or kNcclPadded. Collective; FailedPrecondition, saying why, where it cannot run.
absl::StatusOr<std::unique_ptr<Baseline>> CreateDeviceBaseline(BaselineKind kind, Transport& transport, Device& device,
                                                               BenchProblem& problem);

}  // namespace tokenferry

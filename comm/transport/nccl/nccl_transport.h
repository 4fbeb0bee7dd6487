// Transport of GPU memory over NCCL, around a transport of host memory: what is said between hosts stays that one's,
// and Begin and Finish move rows from GPU to GPU without the host. This header needs neither CUDA nor NCCL: a build
// without them has a stub that says so.
#pragma once

#include <memory>

#include "comm/transport/transport.h"

namespace tokenferry {

// kShared: several ranks use one GPU, which NCCL takes from 2.30.3 on. Slow but correct.
enum class GpuUse : uint8_t { kOwn, kShared };

// Collective over the ranks of `control`, which moves host memory; with its deadline. `device` is this rank's GPU. Both
// must outlive it; streams passed to Begin must end before it does: it watches over their waits (Stream::SetWait).
//
// Begin enqueues one group of ncclSend and ncclRecv on a stream of its own, after what `stream` holds, and returns at
// once; Finish makes `stream` wait for it. Empty ranges are left out on both ends, so both must agree on every size.
// The own part is copied. Whoever waits for such a stream gets an error, the transport's from then on, when the
// deadline ends, NCCL reports one, a rank's process has ended or the job is asked to stop; the communicator is then
// aborted. Of ranks on other hosts it cannot tell whether they have begun a transfer, and says so.
// wait_seconds_per_rank counts waits of messages between hosts only.
//
// Fails on all ranks alike: InvalidArgument on a device that is no GPU, FailedPrecondition without NCCL, with one older
// than 2.14, or with versions that differ between ranks.
absl::StatusOr<std::unique_ptr<Transport>> CreateNcclTransport(Transport& control, Device& device,
                                                               GpuUse use = GpuUse::kOwn);

}  // namespace tokenferry

// Path peer where ranks are GPUs of one host that map each other's memory (NVLink, or PCIe). Everything is enqueued:
// the plan is made on the device (comm/plan/device_plan.h), ranks wait for each other there (peer_ops.h), and the host
// takes no part until it waits for the stream. So a whole step can be one graph. One rank takes the same way.
#pragma once

#include <memory>

#include "comm/exchange/path/path.h"

namespace tokenferry {

// Collective; the same status on every rank. FailedPrecondition when devices cannot map each other's memory, or when
// options.max_tokens or max_top_k are not given: memory is made once, for exchanges up to these. ResourceExhausted when
// there is not enough of it.
absl::StatusOr<std::unique_ptr<PathMover>> CreateDevicePeerMover(const PathContext& context);

}  // namespace tokenferry

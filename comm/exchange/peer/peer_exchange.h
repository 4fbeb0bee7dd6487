// Path peer: all ranks share a host. Nothing is packed, sent or matched: a rank writes its token rows once, into its
// own part of memory that all of them map; experts read them there, write their outputs into their own part, and home
// sums them where they lie. Same plan, same order, same sums as every path, so the same bits.
#pragma once

#include <memory>

#include "comm/exchange/path/path.h"

namespace tokenferry {

// Collective; the same status on every rank. FailedPrecondition when ranks or device cannot reach each other's memory,
// ResourceExhausted when there is not enough of it.
absl::StatusOr<std::unique_ptr<PathMover>> CreatePeerMover(const PathContext& context);

}  // namespace tokenferry

// Path two_level: of each token one row per host crosses the network, to the rank that serves this one there
// (comm/exchange/two_level/two_level_plan.h). Inside a host nothing is sent: rows arrive in memory that all its ranks
// map, experts read them there, and the server reads the experts' outputs where they lie. Uneven hosts are fine.
//
// Of this rank's tokens, those for its own host not included: D_h = distinct (token, host) pairs, S = selections;
// R ranks, hidden size H, b bytes of a dispatched row, o of an output on its way back. Over the network:
//
//   phase               bytes                                 messages
//   plan                64 R + 8 S                            as path alltoallv
//   dispatch rows       D_h b                                 1 per server
//   combine rows        S o; Reduction::kNode: D_h o          1 per server
//   combine weights     Reduction::kNode: 4 S                 1 per server
//
// Messages between hosts go in parts: a part is on the wire while the next is packed (or summed, kNode) and, at home,
// while tokens are summed whose outputs have all come.
//
// Reduction::kExact sums at home, selection by selection: the bits of every other path. Reduction::kNode sums a token's
// selections of one host there, in increasing expert index, and the hosts' sums at home, by lowest rank of the host;
// with output_dtype kBF16 outputs and sums are rounded.
#pragma once

#include <memory>

#include "comm/exchange/path/path.h"

namespace tokenferry {

// Where rows and outputs lie: memory of the host, or, as on GPUs, of each rank's device (two_level_memory.h).
enum class TwoLevelRows : uint8_t { kHostMemory, kDeviceMemory };

// Collective. FailedPrecondition, on all ranks, when ranks of a host cannot map each other's memory.
absl::StatusOr<std::unique_ptr<PathMover>> CreateTwoLevelMover(const PathContext& context, TwoLevelRows kept_in);

}  // namespace tokenferry

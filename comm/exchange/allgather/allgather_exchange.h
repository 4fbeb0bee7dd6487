// Path allgather: every rank gets every rank's routing and rows, and picks what its experts need. For few tokens, where
// messages cost more than bytes: ceil(log2 R) messages in a row for each of headers, routing and rows, and no packing,
// against R - 1 messages at once.
//
// R ranks, T tokens each, top-K, hidden size H, b bytes per element; a rank sends, over one exchange,
//   headers   40 (R - 1) bytes        routing  4 T K (R - 1)        rows  b T H (R - 1)
// whatever the routing is. Blocks double from step to step (Bruck et al., 1997): in step i a rank sends the 2^i blocks
// it has to the rank 2^i below it.
//
// The combine returns each selection's output to the token's rank, as path alltoallv does. Nothing cheaper is exact:
// the sum runs over increasing expert index with one rounding per expert, so that partial sums of several ranks cannot
// be joined without changing bits.
#pragma once

#include <memory>

#include "comm/exchange/path/path.h"

namespace tokenferry {

std::unique_ptr<PathMover> CreateAllGatherMover(const PathContext& context);

// One rank's part in a plan of path allgather: where each of its selections is computed (Placement::location, -1 =
// none), [num_tokens, top_k], and the row at which its tokens lie among the rows received.
struct GatheredRouting {
  absl::Span<const int32_t> location;
  int64_t num_tokens = 0;
  int top_k = 0;
  int64_t first_row = 0;
};

// Pure. `ranks` is [R]. Replaces `plan`, whose memory is reused, as that of `scratch`. RecvPlan::row_offsets counts
// everybody's tokens; row_idx points at first_row + token. DataLoss naming the peer when a location does not exist;
// ResourceExhausted beyond 2^31 rows or selections.
absl::Status BuildGatheredRecvPlan(absl::Span<const GatheredRouting> ranks, const Placement& placement, RankId me,
                                   std::vector<int64_t>& scratch, RecvPlan& plan);

}  // namespace tokenferry

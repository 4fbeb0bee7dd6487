// What path peer needs beyond the ExchangePlan: how large an exchange is, from everybody's headers, and where rows and
// outputs lie in memory that all ranks read. Values without I/O: the spans that are passed in are what ranks wrote
// there.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "comm/exchange/peer/peer_layout.h"
#include "comm/plan/exchange_planner.h"

namespace tokenferry {

// What every rank has announced to every other: the same on all ranks.
struct PeerHeaders {
  explicit PeerHeaders(int num_ranks) : num_tokens(num_ranks), by_pair(static_cast<size_t>(num_ranks) * num_ranks) {}

  int num_ranks() const { return static_cast<int>(num_tokens.size()); }
  const PlanHeader& of(int src, int dst) const { return by_pair[static_cast<size_t>(src) * num_ranks() + dst]; }
  // Where what `src` has for `dst` begins among its rows and its selections, which it writes for rank 0, 1, ..
  int64_t FirstRow(int src, int dst) const;
  int64_t FirstSelection(int src, int dst) const;
  // Where the selections of `src` begin among those that come to `dst`, in order of ranks; src = num_ranks: how many.
  int64_t FirstArrival(int src, int dst) const;

  std::vector<int64_t> num_tokens;  // [R]
  std::vector<PlanHeader> by_pair;  // [R, R] by source, then destination
};

// The memory that this exchange takes. DataLoss naming the rank that has announced what cannot be.
absl::StatusOr<PeerCapacity> NeededCapacity(const PeerHeaders& headers);

// Where in the matrix of all ranks' rows, rows_per_rank of each, the row of each selection at the expert lies: those of
// rank `me`. row_tokens[src] is the token of each row that `src` has for it. Replaces `location` [selections], whose
// memory is reused, as that of `scratch`. DataLoss naming a rank.
absl::Status LocateRows(const PeerHeaders& headers, absl::Span<const absl::Span<const int32_t>> row_tokens,
                        const RecvPlan& recv, int64_t rows_per_rank, std::vector<int32_t>& scratch,
                        std::vector<int32_t>& location);

// Where in the matrix of all ranks' outputs, outputs_per_rank of each, the terms of rank `me`'s sums lie, in the order
// of SendPlan::combine_selection. return_idx[r] is which of r's outputs belongs to each selection that it computes for
// `me`. The rest as LocateRows.
absl::Status LocateOutputs(const PeerHeaders& headers, absl::Span<const absl::Span<const int32_t>> return_idx,
                           const SendPlan& send, int64_t outputs_per_rank, std::vector<int32_t>& scratch,
                           std::vector<int32_t>& location);

}  // namespace tokenferry

// The plan of one exchange: who sends which rows where, every offset, and its inverse. A value on the host, built
// without I/O; Exchange::Plan swaps counts and selections between its two halves.
//
// A row is one (token, destination rank) pair and travels once; its selections are the (token, expert) pairs that this
// rank's slots serve. Order of rows in a message: token index. Order of selections in a message: row, then top-k
// position. Order at the expert: slot, then source rank, then message order; never the order of arrival.
#pragma once

#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "absl/types/span.h"
#include "core/ids.h"
#include "core/moe/placement.h"
#include "core/status.h"

namespace tokenferry {

inline constexpr int64_t kMaxItems = std::numeric_limits<int32_t>::max();  // indices of rows and selections are int32

// A host copy of a Routing's expert_idx: [num_tokens, top_k], row-major, -1 = none.
struct HostRouting {
  absl::Span<const int32_t> expert_idx;
  int64_t num_tokens = 0;
  int top_k = 0;
  absl::Span<const int32_t> location = {};  // a host copy of Routing::location; empty: all -1
  RankId rank = {};                         // whose tokens
};

// Where selection `i` of the routing, token `t`'s, which has an expert, is computed: an index for Placement::location.
int32_t LocationOf(const HostRouting& routing, const Placement& placement, int64_t t, int64_t i);

// What a rank tells the owner of an expert about one selection. Travels as bytes.
struct WireSelection {
  int32_t row_idx = 0;  // within the message
  int32_t slot = 0;     // of the receiving rank
  friend bool operator==(WireSelection, WireSelection) = default;
};

// Home's half: this rank's tokens.
struct SendPlan {
  int64_t num_tokens = 0;
  std::vector<int64_t> row_offsets;        // [R + 1] rows for each rank
  std::vector<int32_t> row_token;          // [rows] token of each row
  std::vector<int64_t> selection_offsets;  // [R + 1] selections for each rank
  std::vector<WireSelection> selections;   // [n]
  std::vector<int32_t> selection_expert;   // [n] logical expert of each
  std::vector<int32_t> selection_k;        // [n] position within the token's top-k
  // The inverse: token t sums the expert outputs that come back as selections combine_selection[combine_offsets[t] ..
  // combine_offsets[t + 1]), which are in increasing logical expert index (then k), each with weight[t][combine_k].
  std::vector<int64_t> combine_offsets;    // [T + 1]
  std::vector<int32_t> combine_selection;  // [n] index into `selections`
  std::vector<int32_t> combine_k;          // [n]
};

// The expert's half: what arrives from everybody. Selections in the order of arrival are those of rank 0's message,
// then rank 1's, ..; those at the expert are grouped by slot.
struct RecvPlan {
  std::vector<int64_t> row_offsets;        // [R + 1] rows from each rank
  std::vector<int64_t> selection_offsets;  // [R + 1] selections from each rank
  std::vector<int64_t> slot_offsets;       // [num_local_slots + 1]
  std::vector<int32_t> row_idx;            // [m] arrived row of each selection at the expert
  std::vector<int32_t> return_selection;   // [m] selection at the expert of each arrived selection: what is sent back
};

struct ExchangePlan {
  RankId rank;
  SendPlan send;
  RecvPlan recv;

  int num_ranks() const { return static_cast<int>(send.row_offsets.size()) - 1; }
  int64_t num_send_rows() const { return send.row_offsets.back(); }
  int64_t num_send_selections() const { return send.selection_offsets.back(); }
  int64_t num_recv_rows() const { return recv.row_offsets.back(); }
  int64_t num_recv_selections() const { return recv.selection_offsets.back(); }
  // One line in all and one per rank: rows and selections to and from it. For --explain.
  std::string ToString() const;
};

// Whether every row that a rank announces is for the reader, or some are for others of its host (path two_level).
enum class RowsFor : uint8_t { kThisRank, kThisHost };

// Builds plans, one after the other, in memory that is reused: its own and that of the plan that is passed in. Results
// depend on the arguments alone. After an error the plan is undefined.
class PlanBuilder {
 public:
  // InvalidArgument, naming token and value, when an expert index is neither -1 nor an expert of the placement, or a
  // location neither -1 nor one of the expert's, or when there are 2^31 or more selections.
  absl::Status BuildSend(const HostRouting& routing, const Placement& placement, SendPlan& plan);

  // `row_counts` and `selection_counts` are [R], as told by each rank; `selections` are everybody's messages, rank 0's
  // first. They come from peers: DataLoss naming the peer when they do not hold together.
  absl::Status BuildRecv(absl::Span<const int64_t> row_counts, absl::Span<const int64_t> selection_counts,
                         absl::Span<const WireSelection> selections, int num_local_slots, RecvPlan& plan,
                         RowsFor rows = RowsFor::kThisRank);

 private:
  void CountPerRank(const HostRouting& routing, const Placement& placement, SendPlan& plan);
  void Fill(const HostRouting& routing, SendPlan& plan);

  std::vector<Placement::Location> location_;       // of each selection
  std::vector<int64_t> next_row_, next_selection_;  // [R], and by slot
  std::vector<int64_t> last_token_;                 // [R]
};

// The part of BuildRecvPlan's checks that needs the counts alone, to be made before memory is allocated for them.
absl::Status ValidateCounts(absl::Span<const int64_t> row_counts, absl::Span<const int64_t> selection_counts,
                            RowsFor rows = RowsFor::kThisRank);

}  // namespace tokenferry

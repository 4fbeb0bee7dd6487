// What of a plan only path two_level needs: orders of rows and outputs on their way, and how much goes where. A value
// without I/O.
#pragma once

#include <array>
#include <cstdint>
#include <numeric>
#include <vector>

#include "comm/exchange/two_level/two_level_plan.h"

namespace tokenferry {

// What one transfer moves, in items (rows, outputs, weights): counts first, offsets when they are complete.
struct MessageOffsets {
  std::vector<int64_t> send, recv;  // [R + 1] of each rank at r + 1, then summed
  void Clear(int num_ranks) {
    send.assign(num_ranks + 1, 0);
    recv.assign(num_ranks + 1, 0);
  }
  void Sum() {
    std::partial_sum(send.begin(), send.end(), send.begin());
    std::partial_sum(recv.begin(), recv.end(), recv.begin());
  }
};

// Transfers between hosts go in at most so many parts: while one is on the wire the next is packed, and the one before
// used.
inline constexpr int kTwoLevelParts = 8;

struct TwoLevelState {
  void Clear(int num_ranks);  // for the next plan; memory is kept

  HostPlan host;
  std::vector<PublishedPlan> published;       // [ranks of this host]
  std::vector<int64_t> row_counts;            // [R] rows of each source for this host
  int64_t num_own_outputs = 0;                // of this rank's experts; what comes back lies behind them
  MessageOffsets rows, back, weights;         // to and from other hosts; weights: and this rank
  int num_row_parts = 1, num_back_parts = 1;  // the same on all ranks
  std::vector<int32_t> wire_token;            // token of each row sent to other hosts
  std::vector<int32_t> row_location;          // of each selection at the expert
  std::vector<int32_t> combine_output;        // exact: index of each output summed at home
  HostSums sums;                          // of the rows that this rank serves; exact: outputs are sent in their order
  std::vector<int64_t> home_offsets;      // node: [T + 1] into the next two
  std::vector<int32_t> home_row, home_k;  // hosts' sums, and 0 (their weight is 1)
  std::array<int64_t, kTwoLevelParts> tokens_ready{};  // how many, from the first, can be summed when a part has come
  std::vector<int32_t> weight_idx;                     // node: of each weight sent, into the matrix of weights

  // Who gets how many rows, from `host` and what arrived in the plan.
  void PlanRows(const TwoLevelRoutes& routes, const RecvPlan& recv);
  // Where in the matrix of all ranks' rows each selection's row lies, from `published` and PlanRows; rows_per_rank is
  // the layout's. DataLoss naming a rank of this host.
  absl::Status LocateRows(const TwoLevelRoutes& routes, const RecvPlan& recv, int64_t rows_per_rank);
  // What happens to the outputs, from `host`, `published` and `row_counts`; outputs_per_rank is the layout's, out_bytes
  // one output's. Reduction::kExact and kNode; DataLoss naming a rank of this host.
  absl::Status PlanOutputs(const TwoLevelRoutes& routes, const SendPlan& send, int64_t outputs_per_rank,
                           int64_t out_bytes);
  absl::Status PlanSums(const TwoLevelRoutes& routes, const SendPlan& send, int64_t outputs_per_rank,
                        int64_t out_bytes);
  // Of a matrix of weights whose rows are `stride` apart.
  void PlanWeights(const TwoLevelRoutes& routes, const SendPlan& send, int64_t stride);

 private:
  void PlanReturns(const TwoLevelRoutes& routes, const SendPlan& send, int64_t outputs_per_rank, int64_t out_bytes);
  void PlanHomeSums(const TwoLevelRoutes& routes, int64_t num_tokens);
  void FindReadyTokens(const TwoLevelRoutes& routes, const std::vector<std::vector<int32_t>>& token_per_item,
                       int64_t num_tokens, int64_t item_bytes);

  // Scratch.
  std::vector<int32_t> location_, host_of_, of_token_, token_of_;  // of selections
  std::vector<int64_t> next_;
  std::vector<std::vector<int32_t>> token_per_output_;  // [hosts]
};

}  // namespace tokenferry

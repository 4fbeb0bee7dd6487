// What of a plan only path two_level needs: orders of rows and outputs on their way, and how much goes where. A value
// without I/O.
#pragma once

#include <cstdint>
#include <numeric>
#include <vector>

#include "comm/two_level_plan.h"

namespace tokenferry {

// What one transfer moves, in items (rows, outputs, weights): counts first, offsets when they are complete.
struct MessageOffsets {
  std::vector<int64_t> send, recv;  // [R + 1] of each rank at r + 1, then summed
  explicit MessageOffsets(int num_ranks) : send(num_ranks + 1), recv(num_ranks + 1) {}
  void Sum() {
    std::partial_sum(send.begin(), send.end(), send.begin());
    std::partial_sum(recv.begin(), recv.end(), recv.begin());
  }
};

struct TwoLevelState {
  explicit TwoLevelState(int num_ranks) : rows(num_ranks), back(num_ranks), weights(num_ranks) {}
  HostPlan host;
  std::vector<ToldPlan> told;             // [ranks of this host]
  std::vector<int64_t> row_counts;        // [R] rows of each source for this host
  int64_t num_own_outputs = 0;            // of this rank's experts; what comes back lies behind them
  MessageOffsets rows, back, weights;     // to and from other hosts; weights: and this rank
  std::vector<int32_t> wire_token;        // token of each row sent to other hosts
  std::vector<int32_t> row_location;      // of each selection at the expert
  std::vector<int32_t> back_output;       // exact: index of each output sent back
  std::vector<int32_t> combine_output;    // exact: index of each output summed at home
  HostSums sums;                          // node
  std::vector<int64_t> home_offsets;      // node: [T + 1] into the next two
  std::vector<int32_t> home_row, home_k;  // hosts' sums, and 0 (their weight is 1)

  // What happens to the outputs, from `host`, `told` and `row_counts`; outputs_per_rank is the layout's.
  // Reduction::kExact and kNode; DataLoss naming a rank of this host.
  void PlanOutputs(const TwoLevelRoutes& routes, const SendPlan& send, int64_t outputs_per_rank);
  absl::Status PlanSums(const TwoLevelRoutes& routes, const SendPlan& send, int64_t outputs_per_rank);

 private:
  void PlanHomeSums(const TwoLevelRoutes& routes, int64_t num_tokens);
};

}  // namespace tokenferry

// Device operations of path peer where ranks are GPUs that read each other's memory: flags that one rank raises in the
// memory of every other, waits for them, rows that are pulled, and sums over outputs that lie where they were computed.
#pragma once

#include "comm/plan/device_plan.h"
#include "core/device/device.h"
#include "core/formats/tensor.h"

namespace tokenferry {

// What ranks tell each other in an exchange, in this order.
enum class PeerStage : int32_t {
  kRows,     // its plan and its rows can be read; it has done with outputs of the exchange before
  kOutputs,  // its expert outputs can be read; it has done with others' rows
};
inline constexpr int kNumPeerStages = 2;

// One rank's memory, as this rank reaches it. The arrays are those of SendPlanArrays and RecvPlanArrays.
struct PeerPart {
  int64_t* flags = nullptr;  // [kNumPeerStages, R] number of the last exchange that each rank has raised it for
  SendPlanSource send;
  const int32_t* row_token = nullptr;
  const char* rows = nullptr;  // its tokens' rows, as they travel, without gaps
  const int64_t* recv_selection_offsets = nullptr;
  const int32_t* return_selection = nullptr;
  const char* outputs = nullptr;  // [selections, H], at a multiple of 16 bytes
};

// What one rank of a group knows of itself and the others. Device memory but for the numbers.
struct PeerGroupView {
  const PeerPart* parts = nullptr;  // [R]
  int32_t rank = 0;
  int32_t num_ranks = 0;
  int64_t* sequence = nullptr;  // one: number of the exchange under way; the first is 1
  int32_t* gave_up = nullptr;   // one: a wait has given up; from then on nothing is raised, waited for or read
};

// Raises this rank's flag in the memory of all ranks, its own too. What was written before, by this rank's earlier work
// on the device, is visible to whoever sees the flag.
struct RaiseFlagsArgs {
  PeerGroupView group;
  PeerStage stage = PeerStage::kRows;  // kRows begins the next exchange: its number is one higher
};
extern const Op<RaiseFlagsArgs> kRaiseFlags;

// What waits on the device tell the host, in memory of kind kHost.
struct PeerWaitReport {
  int64_t stop = 0;  // by the host: waits for what has not come yet give up
  // Of the wait that is, or was last, under way.
  int64_t layer = -1;
  int64_t step = -1;
  int64_t stage = 0;
  int64_t sequence = 0;
  int64_t gave_up = 0;  // 1: it has given up
};

// Until every rank has raised the flag for the exchange under way; at the deadline, or when the host says so, it gives
// up, and the host has to look: nobody else can end what waits on a device.
struct AwaitFlagsArgs {
  PeerGroupView group;
  PeerStage stage = PeerStage::kRows;
  int32_t layer = -1;  // where in the program, for the report
  int64_t step = -1;
  int64_t timeout_ns = 0;
  PeerWaitReport* report = nullptr;
  int64_t* seen = nullptr;              // [R] kHost memory: the flags, where the wait gave up
  int64_t* wait_ns_per_rank = nullptr;  // [R] added to: a wait counts whole for the rank that came last
};
extern const Op<AwaitFlagsArgs> kAwaitFlags;

// out[j] = the row that arrives as number j, of all ranks' rows for this rank, rank 0's first: once each.
struct PullRowsArgs {
  PeerGroupView group;
  const int64_t* row_offsets = nullptr;  // [R + 1] of this rank's RecvPlan
  int64_t row_bytes = 0;
  int64_t max_rows = 0;  // at least row_offsets[R]
  char* out = nullptr;   // [max_rows, row_bytes]
};
extern const Op<PullRowsArgs> kPullRows;

// kCombineRows (comm/ops/exchange_ops.h) over outputs that lie in the memory of the ranks that computed them.
struct CombinePeersArgs {
  PeerGroupView group;
  DType dtype = DType::kF32;                   // of outputs: kF32 or kBF16
  const int64_t* selection_offsets = nullptr;  // of this rank's SendPlan, as the next three
  const int64_t* combine_offsets = nullptr;    // [T + 1]
  const int32_t* combine_selection = nullptr;  // [n]
  const int32_t* combine_k = nullptr;          // [n]
  MatrixView<const float> weight;              // [T, K]
  MatrixView<float> out;                       // [T, H]
};
extern const Op<CombinePeersArgs> kCombinePeers;

}  // namespace tokenferry

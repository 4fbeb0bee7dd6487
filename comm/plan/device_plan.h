// The ExchangePlan (comm/plan/exchange_plan.h, which has the meaning of every array) made by operations on the device:
// nothing is asked of the host, so that a step can be enqueued, or captured, as a whole. Its arrays are PlanBuilder's
// bit for bit.
#pragma once

#include <vector>

#include "comm/plan/exchange_plan.h"
#include "core/device/device.h"
#include "core/device/growing_buffer.h"
#include "core/formats/tensor.h"

namespace tokenferry {

// A Placement, as the tokens of one rank see it. Device memory.
struct DevicePlacement {
  struct Location {
    int32_t rank, slot;
  };
  const Location* locations = nullptr;      // [num_locations] those of expert 0, then those of expert 1, ..
  const int32_t* first_location = nullptr;  // [E + 1] into `locations`
  const int32_t* choice = nullptr;          // locations that the tokens of this rank use in turn, by expert
  const int32_t* first_choice = nullptr;    // [E + 1] into `choice`
  int32_t num_experts = 0;
  int32_t num_ranks = 0;
};

// The tables of a DevicePlacement.
class PlacementTables {
 public:
  // Uploads those of `placement` for tokens of rank `source`, unless they are there already.
  absl::Status Set(Stream& stream, const Placement& placement, RankId source);
  // Whether they are there.
  bool Holds(const Placement& placement, RankId source) const {
    return source_ == source.value && digest_ == placement.Digest();
  }
  const DevicePlacement& view() const { return view_; }

 private:
  int32_t source_ = -1;
  uint64_t digest_ = 0;
  DevicePlacement view_;
  GrowingBuffer locations_{MemoryKind::kDevice, "placement: locations"};
  GrowingBuffer first_location_{MemoryKind::kDevice, "placement: first locations"};
  GrowingBuffer choice_{MemoryKind::kDevice, "placement: choices"};
  GrowingBuffer first_choice_{MemoryKind::kDevice, "placement: first choices"};
};

// What a plan on the device found wrong, of which it has left out what it concerns. Memory that operations write and
// the host reads; zeros: nothing yet. The first one stays.
struct PlanFault {
  enum Kind : int32_t {
    kNone,
    kExpert,    // token `item`, position `k`: expert `value` does not exist
    kLocation,  // token `item`, position `k`: its expert has no location number `value`
    kCounts,    // rank `item` announces `value` selections: impossible, or no room for them or for their rows
    kSlot,      // rank `item` names slot `value`, or a row that it has not announced
  };
  int32_t kind = kNone;
  int32_t k = 0;
  int64_t item = 0;
  int64_t value = 0;
};
std::string ToString(const PlanFault& fault);

// What exchanges have counted. Device memory, added to; null: not wanted.
struct PlanCounters {
  int64_t* num_exchanges = nullptr;      // one
  int64_t* num_tokens = nullptr;         // one: with at least one selection
  int64_t* num_selections = nullptr;     // one: of them
  int64_t* rows_per_rank = nullptr;      // [R] rows for each rank
  int64_t* returned_per_rank = nullptr;  // [R] selections of each rank, whose outputs go back to it
};

// The arrays of a SendPlan for T tokens with K selections each; sizes as there, at most those given.
struct SendPlanArrays {
  int64_t* row_offsets = nullptr;        // [R + 1]
  int64_t* selection_offsets = nullptr;  // [R + 1]
  int32_t* row_token = nullptr;          // [T min(K, R)]
  WireSelection* selections = nullptr;   // [T K]
  int32_t* selection_expert = nullptr;   // [T K], or null: not wanted
  int32_t* selection_k = nullptr;        // [T K], or null
  int64_t* combine_offsets = nullptr;    // [T + 1]
  int32_t* combine_selection = nullptr;  // [T K]
  int32_t* combine_k = nullptr;          // [T K]
};

// PlanBuilder::BuildSend. A selection that it would refuse is a fault, and counts as none.
struct PlanSendArgs {
  MatrixView<const int32_t> expert_idx;     // [T, K]
  MatrixView<const int32_t> location = {};  // [T, K], or data null: all -1
  DevicePlacement placement;
  SendPlanArrays plan;
  int32_t* scratch = nullptr;  // [T K]
  PlanFault* fault = nullptr;
  PlanCounters counters;
};
extern const Op<PlanSendArgs> kPlanSend;

// What one rank has planned to send, where this rank can read it.
struct SendPlanSource {
  const int64_t* row_offsets = nullptr;        // [R + 1]
  const int64_t* selection_offsets = nullptr;  // [R + 1]
  const WireSelection* selections = nullptr;
};

// The arrays of a RecvPlan for at most `max_selections` selections, of at most `max_rows` rows.
struct RecvPlanArrays {
  int64_t* row_offsets = nullptr;        // [R + 1]
  int64_t* selection_offsets = nullptr;  // [R + 1]
  int64_t* slot_offsets = nullptr;       // [num_slots + 1]
  int32_t* row_idx = nullptr;            // [max_selections]
  int32_t* return_selection = nullptr;   // [max_selections]
};

// PlanBuilder::BuildRecv of what every rank sends to rank `rank`. What does not hold together is a fault: a rank whose
// counts are impossible sends nothing, a selection of an impossible slot or row has no place.
struct PlanRecvArgs {
  const SendPlanSource* sources = nullptr;  // [R]
  int32_t rank = 0;
  int32_t num_ranks = 0;
  int32_t num_slots = 0;
  int64_t max_rows = 0;
  int64_t max_selections = 0;
  const int32_t* nothing_came = nullptr;  // one; not 0: the sources must not be read, nobody sends anything
  RecvPlanArrays plan;
  WireSelection* scratch = nullptr;  // [max_selections]
  PlanFault* fault = nullptr;
  PlanCounters counters;
};
extern const Op<PlanRecvArgs> kPlanRecv;

}  // namespace tokenferry

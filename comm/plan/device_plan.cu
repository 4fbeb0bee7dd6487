#include "comm/plan/device_plan.h"
#include "comm/plan/stable_sort.cuh"
#include "core/device/cuda_launch.cuh"
#include "core/kernels/offsets.cuh"

namespace tokenferry {
namespace {

constexpr int kNoEntry = INT32_MAX;

__device__ void Add(int64_t* counter, int64_t n) {
  if (counter != nullptr) *counter += n;
}

// The host may look at any time: the kind comes last.
__device__ void Publish(PlanFault* to, const PlanFault& fault) {
  if (to == nullptr || to->kind != PlanFault::kNone) return;
  to->k = fault.k;
  to->item = fault.item;
  to->value = fault.value;
  __threadfence_system();
  *static_cast<volatile int32_t*>(&to->kind) = fault.kind;
}

// The location of selection i, or -1. *fault: what is wrong with it, if anything.
__device__ int32_t LocationOf(const PlanSendArgs& a, int64_t i, PlanFault* fault) {
  const int64_t num_cols = a.expert_idx.cols, t = i / num_cols, k = i % num_cols;
  const int32_t expert = a.expert_idx.row(t)[k];
  *fault = {PlanFault::kNone, static_cast<int32_t>(k), t, expert};
  if (expert == -1) return -1;
  if (expert < 0 || expert >= a.placement.num_experts) {
    fault->kind = PlanFault::kExpert;
    return -1;
  }
  const int32_t location = a.location.data == nullptr ? -1 : a.location.row(t)[k];
  const int32_t first = a.placement.first_location[expert];
  if (location < -1 || location >= a.placement.first_location[expert + 1] - first) {
    fault->kind = PlanFault::kLocation;
    fault->value = location;
    return -1;
  }
  if (location >= 0) return first + location;
  const int32_t choice = a.placement.first_choice[expert];
  return a.placement.choice[choice + t % (a.placement.first_choice[expert + 1] - choice)];
}

// Of the faults that threads have found, that of the first entry; by the whole block, `first` in shared memory holds
// kNoEntry. Has a barrier: what threads wrote before is there for all afterwards.
__device__ void ReportFirst(PlanFault* fault, const PlanFault& mine, int32_t at, int32_t* first) {
  if (mine.kind != PlanFault::kNone) atomicMin(first, at);
  __syncthreads();
  if (mine.kind != PlanFault::kNone && *first == at) Publish(fault, mine);
}

// One block. Selections are sorted by rank, and with them, counted on their own, those that open a row.
__global__ void PlanSendKernel(PlanSendArgs a) {
  extern __shared__ int32_t shared[];
  __shared__ int32_t first_fault, num_tokens_with_any, live_before[kWarpSize + 1];
  const int num_ranks = a.placement.num_ranks, num_warps = static_cast<int>(blockDim.x) / kWarpSize;
  const auto num_cols = static_cast<int32_t>(a.expert_idx.cols);
  const int64_t num_tokens = a.expert_idx.rows, n = num_tokens * num_cols;
  const SendPlanArrays& plan = a.plan;
  StableSort selections(shared, num_ranks);
  StableSort rows(shared + StableSort::SharedBytes(num_warps, num_ranks) / sizeof(int32_t), num_ranks);
  if (threadIdx.x == 0) {
    first_fault = kNoEntry;
    num_tokens_with_any = 0;
  }
  __syncthreads();
  PlanFault fault, first_of_mine;
  int64_t fault_at = 0;
  for (int64_t i = threadIdx.x; i < n; i += blockDim.x) {
    a.scratch[i] = LocationOf(a, i, &fault);
    if (fault.kind != PlanFault::kNone && first_of_mine.kind == PlanFault::kNone) {
      first_of_mine = fault;
      fault_at = i;
    }
  }
  ReportFirst(a.fault, first_of_mine, static_cast<int32_t>(fault_at), &first_fault);

  const auto rank_of = [&](int64_t i) { return a.scratch[i] < 0 ? -1 : a.placement.locations[a.scratch[i]].rank; };
  const auto opens_row = [&](int64_t i, int32_t rank) {
    for (int64_t before = i / num_cols * num_cols; before < i; ++before) {
      if (rank_of(before) == rank) return false;
    }
    return true;
  };
  selections.ClearCounts();
  rows.ClearCounts();
  int32_t num_live = 0;  // of the warp's piece
  selections.ForPiece(n, rank_of, [&](int64_t i, int32_t rank, unsigned same) {
    const unsigned opening = __ballot_sync(kWholeWarp, rank >= 0 && opens_row(i, rank));
    num_live += __popc(__ballot_sync(kWholeWarp, rank >= 0));
    selections.Count(rank, same, same);
    rows.Count(rank, same, same & opening);
  });
  if (LaneOf() == 0) live_before[WarpOfThread()] = num_live;
  __syncthreads();
  selections.Scan();
  rows.Scan();
  if (WarpOfThread() == 0) ScanByWarp(live_before, num_warps);
  __syncthreads();
  for (int r = threadIdx.x; r <= num_ranks; r += blockDim.x) {
    plan.row_offsets[r] = rows.offsets()[r];
    plan.selection_offsets[r] = selections.offsets()[r];
    if (r < num_ranks && a.counters.rows_per_rank != nullptr) {
      a.counters.rows_per_rank[r] += rows.offsets()[r + 1] - rows.offsets()[r];
    }
  }

  num_live = live_before[WarpOfThread()];
  selections.ForPiece(n, rank_of, [&](int64_t i, int32_t rank, unsigned same) {
    const bool opens = rank >= 0 && opens_row(i, rank);
    const unsigned opening = __ballot_sync(kWholeWarp, opens), live = __ballot_sync(kWholeWarp, rank >= 0);
    // Rows and selections before this one; its row is the last that was opened, by itself if it does.
    const int32_t row = rows.Before(rank, same & opening) + (opens ? 1 : 0) - 1;
    const int32_t in_rank = selections.Before(rank, same), live_here = num_live + __popc(live & LanesBefore());
    if (i < n) {
      const int64_t t = i / num_cols, first = t * num_cols;
      const auto k = static_cast<int32_t>(i - first);
      int32_t live_before_k = 0;  // of the token
      for (int64_t j = first; j < i; ++j) live_before_k += a.scratch[j] >= 0 ? 1 : 0;
      if (k == 0) plan.combine_offsets[t] = live_here;
      if (rank >= 0) {
        const int32_t s = selections.offsets()[rank] + in_rank, *experts = a.expert_idx.row(t), expert = experts[k];
        if (opens) plan.row_token[rows.offsets()[rank] + row] = static_cast<int32_t>(t);
        plan.selections[s] = {row, a.placement.locations[a.scratch[i]].slot};
        if (plan.selection_expert != nullptr) plan.selection_expert[s] = expert;
        if (plan.selection_k != nullptr) plan.selection_k[s] = k;
        int64_t at = live_here - live_before_k;  // where the token's terms begin; they are sorted by expert, then by k
        for (int32_t j = 0; j < num_cols; ++j) {
          if (a.scratch[first + j] >= 0 && (experts[j] < expert || (experts[j] == expert && j < k))) ++at;
        }
        plan.combine_selection[at] = s;
        plan.combine_k[at] = k;
        if (live_before_k == 0) atomicAdd(&num_tokens_with_any, 1);
      }
    }
    selections.Advance(rank, same, same);
    rows.Advance(rank, same, same & opening);
    num_live += __popc(live);
  });
  if (num_cols == 0) {
    for (int64_t t = threadIdx.x; t < num_tokens; t += blockDim.x) plan.combine_offsets[t] = 0;
  }
  __syncthreads();
  if (threadIdx.x != 0) return;
  const int64_t num_selections = selections.offsets()[num_ranks];
  plan.combine_offsets[num_tokens] = num_selections;
  Add(a.counters.num_exchanges, 1);
  Add(a.counters.num_tokens, num_tokens_with_any);
  Add(a.counters.num_selections, num_selections);
}

// What a block of PlanRecvKernel keeps of each rank, in shared memory.
struct Arrivals {
  int32_t *first_row, *first_selection;  // [R] in the source's plan
  int32_t *row_offsets, *offsets;        // [R + 1] in the order of arrival

  static __host__ __device__ size_t Bytes(int num_ranks) { return (4 * size_t(num_ranks) + 2) * sizeof(int32_t); }
  __device__ Arrivals(int32_t* shared, int num_ranks)
      : first_row(shared),
        first_selection(first_row + num_ranks),
        row_offsets(first_selection + num_ranks),
        offsets(row_offsets + num_ranks + 1) {}
};

// One thread: how much comes from each rank. Impossible counts are none.
__device__ void CountArrivals(const PlanRecvArgs& a, const Arrivals& arrivals) {
  const bool none = a.nothing_came != nullptr && *a.nothing_came != 0;
  int64_t num_rows = 0, num_selections = 0;
  for (int r = 0; r < a.num_ranks; ++r) {
    arrivals.row_offsets[r] = static_cast<int32_t>(num_rows);
    arrivals.offsets[r] = static_cast<int32_t>(num_selections);
    arrivals.first_row[r] = arrivals.first_selection[r] = 0;
    if (none) continue;
    const SendPlanSource& s = a.sources[r];
    const int64_t rows = s.row_offsets[a.rank + 1] - s.row_offsets[a.rank];
    const int64_t selections = s.selection_offsets[a.rank + 1] - s.selection_offsets[a.rank];
    if (rows < 0 || selections < rows || (rows == 0 && selections > 0) || rows > a.max_rows - num_rows ||
        selections > a.max_selections - num_selections) {
      Publish(a.fault, {PlanFault::kCounts, 0, r, selections});
      continue;
    }
    arrivals.first_row[r] = static_cast<int32_t>(s.row_offsets[a.rank]);
    arrivals.first_selection[r] = static_cast<int32_t>(s.selection_offsets[a.rank]);
    num_rows += rows;
    num_selections += selections;
  }
  arrivals.row_offsets[a.num_ranks] = static_cast<int32_t>(num_rows);
  arrivals.offsets[a.num_ranks] = static_cast<int32_t>(num_selections);
}

// One block. Arrivals are sorted by slot.
__global__ void PlanRecvKernel(PlanRecvArgs a) {
  extern __shared__ int32_t shared[];
  __shared__ int32_t first_fault;
  const RecvPlanArrays& plan = a.plan;
  const Arrivals arrivals(shared, a.num_ranks);
  StableSort slots(shared + Arrivals::Bytes(a.num_ranks) / sizeof(int32_t), a.num_slots);
  if (threadIdx.x == 0) {
    first_fault = kNoEntry;
    CountArrivals(a, arrivals);
  }
  __syncthreads();
  for (int r = threadIdx.x; r <= a.num_ranks; r += blockDim.x) {
    plan.row_offsets[r] = arrivals.row_offsets[r];
    plan.selection_offsets[r] = arrivals.offsets[r];
    if (r < a.num_ranks && a.counters.returned_per_rank != nullptr) {
      a.counters.returned_per_rank[r] += arrivals.offsets[r + 1] - arrivals.offsets[r];
    }
  }
  const int64_t n = arrivals.offsets[a.num_ranks];
  PlanFault first_of_mine;
  int64_t fault_at = 0;
  // Reads the arrival, over the link, and keeps it with its row among all that arrive; slot -1 where it has none.
  const auto take = [&](int64_t j) {
    const int r = GroupHolding(arrivals.offsets, a.num_ranks, j);
    WireSelection wire = a.sources[r].selections[arrivals.first_selection[r] + (j - arrivals.offsets[r])];
    if (wire.slot < 0 || wire.slot >= a.num_slots || wire.row_idx < 0 ||
        wire.row_idx >= arrivals.row_offsets[r + 1] - arrivals.row_offsets[r]) {
      if (first_of_mine.kind == PlanFault::kNone) {
        first_of_mine = {PlanFault::kSlot, 0, r, wire.slot};
        fault_at = j;
      }
      wire.slot = -1;
    }
    wire.row_idx += arrivals.row_offsets[r];
    a.scratch[j] = wire;
    return wire.slot;
  };
  slots.ClearCounts();
  slots.ForPiece(n, take, [&](int64_t, int32_t slot, unsigned same) { slots.Count(slot, same, same); });
  ReportFirst(a.fault, first_of_mine, static_cast<int32_t>(fault_at), &first_fault);
  slots.Scan();
  __syncthreads();
  for (int s = threadIdx.x; s <= a.num_slots; s += blockDim.x) plan.slot_offsets[s] = slots.offsets()[s];
  const auto slot_of = [&](int64_t j) { return a.scratch[j].slot; };
  slots.ForPiece(n, slot_of, [&](int64_t j, int32_t slot, unsigned same) {
    const int32_t before = slots.Before(slot, same);
    if (slot >= 0) {
      const int32_t at_expert = slots.offsets()[slot] + before;
      plan.row_idx[at_expert] = a.scratch[j].row_idx;
      plan.return_selection[j] = at_expert;
    } else if (j < n) {
      plan.return_selection[j] = 0;
    }
    slots.Advance(slot, same, same);
  });
}

}  // namespace

absl::Status CudaPlanSend(const PlanSendArgs& a, void* stream) {
  constexpr int kTables = 2;
  const int num_ranks = a.placement.num_ranks;
  const int warps = SortWarps(a.expert_idx.rows * a.expert_idx.cols, num_ranks, kTables);
  return LaunchKernel(PlanSendKernel, {1, warps * kWarpSize, kTables * StableSort::SharedBytes(warps, num_ranks)},
                      stream, a);
}

absl::Status CudaPlanRecv(const PlanRecvArgs& a, void* stream) {
  const int warps = SortWarps(a.max_selections, a.num_slots, 1);
  return LaunchKernel(
      PlanRecvKernel,
      {1, warps * kWarpSize, Arrivals::Bytes(a.num_ranks) + StableSort::SharedBytes(warps, a.num_slots)}, stream, a);
}

}  // namespace tokenferry

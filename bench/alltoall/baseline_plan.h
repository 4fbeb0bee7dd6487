// What the baselines send, in which order, and what they sum: index arrays in host memory, swapped by MPI.
#pragma once

#include <vector>

#include "bench/alltoall/problem.h"
#include "comm/plan/exchange_plan.h"

namespace tokenferry {

// Counts and displacements of MPI_Alltoallv, in bytes.
struct MpiBlocks {
  std::vector<int> counts, displacements;
  int64_t num_bytes = 0;

  MpiBlocks() = default;
  // offsets [R + 1] in units of `unit` bytes. The bytes fit into an int.
  MpiBlocks(const std::vector<int64_t>& offsets, int64_t unit);
};

// Collective over MPI_COMM_WORLD; returns when the bytes have arrived.
absl::Status MpiAllToAll(const void* send, const MpiBlocks& s, void* recv, const MpiBlocks& r);

// The plan of a baseline: this exchange's own index arrays.
struct BaselinePlan {
  SendPlan send;
  RecvPlan recv;
  std::vector<float> send_weight, recv_weight;  // of selections, in message order
};

// Collective over MPI_COMM_WORLD.
absl::StatusOr<BaselinePlan> MakeBaselinePlan(const BenchProblem& problem);

// Sums of rows by index, ready for kCombineRows: the baselines sum with the exchange's own kernel.
struct SumList {
  std::vector<int64_t> offsets;   // [num_groups + 1]
  std::vector<int32_t> idx;       // the items of each group, in order
  std::vector<float> weight;      // of each item, 1 at first
  std::vector<int32_t> position;  // 0, 1, ..
};

// Groups 0 .. num_groups - 1, each with the items i of group[i], in order.
SumList GroupItems(const std::vector<int32_t>& group, int64_t num_groups);

}  // namespace tokenferry

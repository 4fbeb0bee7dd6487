#include "bench/alltoall/baseline_plan.h"

#include <mpi.h>

#include <numeric>

#include "comm/transport/mpi_status.h"

namespace tokenferry {
namespace {

std::vector<int64_t> Offsets(const std::vector<int64_t>& counts) {
  std::vector<int64_t> offsets(counts.size() + 1, 0);
  std::partial_sum(counts.begin(), counts.end(), offsets.begin() + 1);
  return offsets;
}

}  // namespace

MpiBlocks::MpiBlocks(const std::vector<int64_t>& offsets, int64_t unit) : num_bytes(offsets.back() * unit) {
  for (size_t r = 0; r + 1 < offsets.size(); ++r) {
    counts.push_back(static_cast<int>((offsets[r + 1] - offsets[r]) * unit));
    displacements.push_back(static_cast<int>(offsets[r] * unit));
  }
}

absl::Status MpiAllToAll(const void* send, const MpiBlocks& s, void* recv, const MpiBlocks& r) {
  return MpiStatus(MPI_Alltoallv(send, s.counts.data(), s.displacements.data(), MPI_BYTE, recv, r.counts.data(),
                                 r.displacements.data(), MPI_BYTE, MPI_COMM_WORLD),
                   "MPI_Alltoallv");
}

absl::StatusOr<BaselinePlan> MakeBaselinePlan(const BenchProblem& problem) {
  BaselinePlan plan;
  PlanBuilder builder;
  TF_RETURN_IF_ERROR(builder.BuildSend(problem.host_routing(), problem.placement(), plan.send));
  const int R = problem.placement().num_ranks();
  std::vector<int64_t> mine(2 * R), theirs(2 * R), rows(R), selections(R);
  for (int r = 0; r < R; ++r) {
    mine[2 * r] = plan.send.row_offsets[r + 1] - plan.send.row_offsets[r];
    mine[2 * r + 1] = plan.send.selection_offsets[r + 1] - plan.send.selection_offsets[r];
  }
  TF_RETURN_IF_ERROR(MpiStatus(MPI_Alltoall(mine.data(), 2, MPI_INT64_T, theirs.data(), 2, MPI_INT64_T, MPI_COMM_WORLD),
                               "MPI_Alltoall"));
  for (int r = 0; r < R; ++r) {
    rows[r] = theirs[2 * r];
    selections[r] = theirs[2 * r + 1];
  }
  const std::vector<int64_t> offsets = Offsets(selections);
  std::vector<WireSelection> arrived(offsets.back());
  TF_RETURN_IF_ERROR(MpiAllToAll(plan.send.selections.data(),
                                 MpiBlocks(plan.send.selection_offsets, sizeof(WireSelection)), arrived.data(),
                                 MpiBlocks(offsets, sizeof(WireSelection))));
  plan.send_weight.resize(plan.send.selections.size());
  const int64_t K = problem.point().top_k;
  for (int r = 0; r < R; ++r) {
    for (int64_t i = plan.send.selection_offsets[r]; i < plan.send.selection_offsets[r + 1]; ++i) {
      const int64_t row = plan.send.row_offsets[r] + plan.send.selections[i].row_idx;
      plan.send_weight[i] = problem.traffic().weight[plan.send.row_token[row] * K + plan.send.selection_k[i]];
    }
  }
  plan.recv_weight.resize(arrived.size());
  TF_RETURN_IF_ERROR(MpiAllToAll(plan.send_weight.data(), MpiBlocks(plan.send.selection_offsets, sizeof(float)),
                                 plan.recv_weight.data(), MpiBlocks(offsets, sizeof(float))));
  TF_RETURN_IF_ERROR(
      builder.BuildRecv(rows, selections, arrived, problem.placement().num_local_slots(problem.rank()), plan.recv));
  return plan;
}

SumList GroupItems(const std::vector<int32_t>& group, int64_t num_groups) {
  SumList list;
  list.offsets.assign(num_groups + 1, 0);
  for (const int32_t g : group) ++list.offsets[g + 1];
  std::partial_sum(list.offsets.begin(), list.offsets.end(), list.offsets.begin());
  std::vector<int64_t> next(list.offsets.begin(), list.offsets.end() - 1);
  list.idx.resize(group.size());
  list.weight.assign(group.size(), 1.0f);
  list.position.resize(group.size());
  std::iota(list.position.begin(), list.position.end(), 0);
  for (size_t i = 0; i < group.size(); ++i) list.idx[next[group[i]]++] = static_cast<int32_t>(i);
  return list;
}

}  // namespace tokenferry

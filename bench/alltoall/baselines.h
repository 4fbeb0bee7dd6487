// What a program without this exchange would do, timed in the same run: MPI's own all-to-all, alone and with the usual
// packing around it, NCCL's sends and receives, and plain copies. bench/README.md defines them.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "bench/alltoall/problem.h"

namespace tokenferry {

enum class BaselineKind : uint8_t {
  kMemcpy,        // one copy of the bytes that this rank dispatches, and one of those it gets back
  kAllToAllV,     // MPI_Alltoallv of the same bytes in both directions, nothing else
  kPerRank,       // pack + MPI_Alltoallv + unpack + read + sum, back and sum: one row per (token, rank) both ways
  kPerExpert,     // the same with one row per (token, expert)
  kNcclSendRecv,  // ncclSend and ncclRecv of kAllToAllV's bytes, as one group each way, and nothing else
  kNcclPadded,    // the same with blocks of one size, as ncclAlltoAll has them
};
// "memcpy", "mpi_alltoallv", "mpi_row_per_rank", "mpi_row_per_expert", "nccl_sendrecv", "nccl_padded"
const char* BaselineName(BaselineKind kind);
// Whether it computes what a path does, and is checked and compared with it; the others only move bytes.
bool IsWhole(BaselineKind kind);

// Seconds of this rank in one run; what a kind does not do is 0.
struct BaselineSeconds {
  double plan = 0;     // index arrays, counts and indices exchanged
  double pack = 0;     // rows into the send buffer
  double forward = 0;  // rows to the experts' ranks
  double unpack = 0;   // into grouped order
  double read = 0;     // every selected row once
  double reduce = 0;   // expert outputs into the return buffer
  double back = 0;
  double sum = 0;  // at home
  double round_trip() const { return plan + pack + forward + unpack + read + reduce + back + sum; }
};

class Baseline {
 public:
  virtual ~Baseline() = default;
  // Collective. The first call allocates.
  virtual absl::StatusOr<BaselineSeconds> Run() = 0;
  // Collective. Results of a run against the plain meaning; OK for kinds that have none.
  virtual absl::Status Verify() = 0;
};

// Collective. FailedPrecondition, saying why, where it cannot run: MPI's need an MPI job, memory of the host and blocks
// of less than 2^31 bytes, NCCL's its transport. Everything must outlive it.
absl::StatusOr<std::unique_ptr<Baseline>> CreateBaseline(BaselineKind kind, Transport& transport, Device& device,
                                                         BenchProblem& problem);

}  // namespace tokenferry

// How tests make ranks of the fake NCCL fail, and what it has found.
//
// Environment of a program: TF_FAKENCCL_FAULT=RANK:CALL:kill|stop, TF_FAKENCCL_VERSION (as NCCL_VERSION_CODE).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace tokenferry::fakegpu {

enum class FaultKind : uint8_t {
  kKill,         // the process gets SIGKILL
  kStop,         // the process gets SIGSTOP
  kThrow,        // RankDied is thrown: the end of a rank that is a thread
  kHang,         // the thread waits until ReleaseHung
  kRemoteError,  // the communicator's asynchronous error, as when a connection breaks
};
struct RankDied {
  int rank;
};

// What `rank` does instead of its call number `call` with its communicator. Calls count from 0: initialisation, every
// ncclSend, ncclRecv, collective and end of a group, ncclCommFinalize. For communicators that are made later.
struct Fault {
  int rank = -1;
  int64_t call = -1;
  FaultKind kind = FaultKind::kThrow;
};
void SetFault(const Fault& fault);  // one at a time
void ReleaseHung();
// How many calls the last communicator of that rank in this process has seen.
int64_t NumCalls(int rank);

// Rules that were broken, since the last call.
std::vector<std::string> TakeReports();

}  // namespace tokenferry::fakegpu

// Memory that all ranks of a group load and store: rank r's part is `bytes_per_rank` bytes at base + r *
// bytes_per_rank, in every rank's address space (bases differ between processes). Starts as zeros. Each rank may let go
// of it when it wants; it is freed when the last one has, also when ranks are killed: it never has a name.
#pragma once

#include <memory>

#include "comm/transport/transport.h"

namespace tokenferry {

class PeerMemory {
 public:
  virtual ~PeerMemory() = default;
  char* part(int rank) const { return base_ + rank * bytes_per_rank_; }
  char* base() const { return base_; }
  int64_t bytes_per_rank() const { return bytes_per_rank_; }

  // Of memory that was only reserved (Transport::ReservePeerMemory): makes bytes [begin, begin + num_bytes) of this
  // rank's part usable. Keeps what is there already; others need not know. ResourceExhausted when there is not enough.
  virtual absl::Status Take(int rank, int64_t begin, int64_t num_bytes) = 0;

 protected:
  PeerMemory(char* base, int64_t bytes_per_rank) : base_(base), bytes_per_rank_(bytes_per_rank) {}

 private:
  char* const base_;
  const int64_t bytes_per_rank_;
};

enum class PeerPages : uint8_t { kNow, kLater };  // kLater: PeerMemory::Take

// For ranks that are threads of this process.
absl::StatusOr<std::shared_ptr<PeerMemory>> AllocateProcessMemory(int num_ranks, int64_t bytes_per_rank,
                                                                  PeerPages pages = PeerPages::kNow);

// For ranks that are processes of one host and PID namespace. Collective, every step of it with the transport's
// deadline; all ranks get the same status. A nameless file in `directory` (a tmpfs) is mapped by all; each rank takes
// its own part's pages at once, so that they lie on its NUMA node, and that a lack of them is an error here and not a
// SIGBUS later. ResourceExhausted names the size needed, the space there is and what to do.
absl::StatusOr<std::shared_ptr<PeerMemory>> AllocateHostMemory(Transport& transport, const CallSite& site,
                                                               int64_t bytes_per_rank,
                                                               const char* directory = "/dev/shm");

// The same for ranks on several hosts, each host for itself; `first_rank` of this rank's host has the file. Nothing is
// taken yet.
absl::StatusOr<std::shared_ptr<PeerMemory>> ReserveHostMemory(Transport& transport, const CallSite& site,
                                                              int64_t bytes_per_rank, int first_rank,
                                                              const char* directory = "/dev/shm");

}  // namespace tokenferry

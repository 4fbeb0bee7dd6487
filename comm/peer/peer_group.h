// What ranks can do with each other without messages: share memory, and see whether another one's process is alive.
// A transport has one (Transport::peers) where its ranks can reach each other so. Flags in the shared memory are
// comm/peer/peer_flags.h.
//
// One thread per rank calls. Waits have the deadline and the errors of the transport's.
#pragma once

#include <memory>
#include <string>

#include "comm/peer/peer_memory.h"
#include "comm/wait/call_site.h"
#include "core/ids.h"

namespace tokenferry {

class PeerGroup {
 public:
  virtual ~PeerGroup() = default;

  virtual RankId rank() const = 0;
  virtual int num_ranks() const = 0;
  virtual std::string host(RankId rank) const = 0;
  virtual absl::Duration timeout() const = 0;  // of every wait

  // Collective; all ranks pass the same size and get the same status. FailedPrecondition when ranks cannot reach each
  // other's memory, ResourceExhausted when there is not enough.
  virtual absl::StatusOr<std::shared_ptr<PeerMemory>> Allocate(const CallSite& site, int64_t bytes_per_rank) = 0;
  // Collective over all ranks, as above, for the ranks of each host among themselves: part(r) exists for ranks r of
  // this host. Addresses only: a rank takes the memory of its part as it needs it (PeerMemory::Take), so that sizes may
  // be far above what there is.
  virtual absl::StatusOr<std::shared_ptr<PeerMemory>> Reserve(const CallSite& site, int64_t bytes_per_rank) = 0;

  // OK while `rank` may still do its part; its error (ranks that are threads), or Unavailable when its process has
  // ended. What it did before is then visible.
  virtual absl::Status CheckAlive(RankId rank) const = 0;
  virtual std::string ProcessStateOf(RankId rank) const = 0;  // "running", "gone", ..; empty when unknown

  // Counts a wait in the transport's wait_seconds_per_rank().
  virtual void AddWaitSeconds(RankId rank, double seconds) = 0;
};

}  // namespace tokenferry

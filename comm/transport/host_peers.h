// The PeerGroup of ranks that are processes: those of one host and PID namespace share memory through a nameless file,
// and see each other's processes.
#pragma once

#include <vector>

#include "comm/peer/peer_group.h"
#include "comm/peer/process_state.h"
#include "comm/transport/transport.h"

namespace tokenferry {

class HostPeers : public PeerGroup {
 public:
  // `transport` must outlive it. Its wait_seconds_per_rank() is [num_ranks] of `wait_seconds`, which also does.
  HostPeers(Transport& transport, std::vector<double>& wait_seconds)
      : transport_(transport), wait_seconds_(wait_seconds) {}

  // Collective, with the transport's deadline: everybody's host and process. Before it, no other call.
  absl::Status Join();

  RankId rank() const override { return transport_.rank(); }
  int num_ranks() const override { return transport_.num_ranks(); }
  std::string host(RankId rank) const override { return ranks_[rank.value].host; }
  absl::Duration timeout() const override { return transport_.timeout(); }
  absl::StatusOr<std::shared_ptr<PeerMemory>> Allocate(const CallSite& site, int64_t bytes_per_rank) override;
  absl::StatusOr<std::shared_ptr<PeerMemory>> Reserve(const CallSite& site, int64_t bytes_per_rank) override;
  absl::Status CheckAlive(RankId rank) const override;
  std::string ProcessStateOf(RankId rank) const override;
  void AddWaitSeconds(RankId rank, double seconds) override { wait_seconds_[rank.value] += seconds; }

 private:
  struct Rank {
    std::string host = "?";
    std::string process_namespace;
    ProcessId process;
  };

  bool OneNamespace(int a, int b) const;
  absl::Status CannotReach(int a, int b) const;
  // `first_rank` of this rank's host creates the file.
  absl::StatusOr<std::shared_ptr<PeerMemory>> ShareFile(const CallSite& site, int64_t bytes_per_rank, int first_rank,
                                                        PeerPages pages);

  Transport& transport_;
  std::vector<double>& wait_seconds_;
  std::vector<Rank> ranks_;
};

}  // namespace tokenferry

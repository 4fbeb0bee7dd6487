// How ranks that share memory show each other how far they are: one flag per (writer, kind), which holds the sequence
// number of the last exchange it was raised for. What a rank stored before Raise is visible to whoever Wait returned to
// (release store, acquire load).
#pragma once

#include <atomic>
#include <vector>

#include "absl/types/span.h"
#include "comm/peer/peer_group.h"

namespace tokenferry {

enum class PeerSignal : uint8_t {
  kPlan,     // headers and index arrays can be read; this rank is done with the exchange before
  kIndices,  // index arrays can be read; only in an exchange that made the memory grow
  kRows,     // its token rows can be read
  kOutputs,  // its expert outputs can be read; this rank is done with others' rows
};
inline constexpr int kNumPeerSignals = 4;

// A cache line of its own: its writer stores, everybody else polls.
struct alignas(64) PeerFlag {
  std::atomic<int64_t> sequence;
  std::atomic<int64_t> raised_at_ns;  // SteadyNanos; for messages only
};
static_assert(sizeof(PeerFlag) == 64 && std::atomic<int64_t>::is_always_lock_free);

class PeerFlags {
 public:
  static constexpr int64_t kBytesPerRank = kNumPeerSignals * sizeof(PeerFlag);

  // At the start of every rank's part of `memory`, which holds zeros. Both must outlive it.
  PeerFlags(PeerGroup& peers, const PeerMemory& memory) : peers_(peers), memory_(memory) {
    pending_.reserve(peers.num_ranks());  // waiting allocates nothing
  }

  void Raise(PeerSignal signal, int64_t sequence);

  // Until each rank r with wanted[r] != 0 has raised `signal` for `sequence`; sequences start at 1. wanted [R] is how
  // many headers, rows, .. its flag stands for. Ends like a transport's wait: deadline, a rank that has ended,
  // RequestStop. Spins, then yields, then sleeps (Backoff).
  absl::Status Wait(const CallSite& site, PeerSignal signal, int64_t sequence, absl::Span<const int64_t> wanted);

 private:
  PeerFlag& flag(int rank, PeerSignal signal) const;
  bool Raised(int rank, PeerSignal signal, int64_t sequence) const;
  absl::Status CheckAlive(const CallSite& site, PeerSignal signal, int64_t sequence,
                          absl::Span<const int64_t> wanted) const;
  std::string Describe(const CallSite& site, PeerSignal signal, int64_t sequence,
                       absl::Span<const int64_t> wanted) const;
  std::string LastSign(int rank) const;

  PeerGroup& peers_;
  const PeerMemory& memory_;
  std::vector<int> pending_;  // of the current Wait
};

}  // namespace tokenferry

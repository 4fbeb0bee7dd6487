// Transfers that a stream may still hold, and which ranks have begun them. NCCL does not say whom it waits for, so the
// ranks of a host show each other in shared memory how far they are. Private to comm/transport/nccl.
#pragma once

#include <array>
#include <atomic>
#include <memory>
#include <string>
#include <vector>

#include "comm/peer/peer_group.h"
#include "comm/transport/transfer.h"
#include "comm/wait/wait.h"

namespace tokenferry {

class TransferLog {
 public:
  // `control` must outlive it.
  explicit TransferLog(Transport& control);

  // Collective over `control`. Ranks of a host that cannot share memory do without.
  absl::Status Start(Device& device, Stream& stream);

  // A transfer, whose messages `stream` is about to get.
  void Begin(const Transfer& t);
  // It has got them: marks their end in it, and shows the other ranks that the transfer has begun.
  void HasBeenEnqueued(Stream& stream);
  // After the messages of a transfer that was enqueued.
  Event& EndOf(int64_t sequence) { return *entries_[sequence % kNumEntries].end; }
  int64_t num_begun() const { return num_begun_; }

  // The oldest transfer whose work has not ended; null when there is none.
  const Transfer* FirstUnderWay();

  // "layer 3, combine rows, step 17, transfer 12: rank 0 waits for rank 2 on host a (0 of 16 rows of 256 bytes arrived,
  // its process is stopped, last heard of in transfer 11, 1.2s ago)": ranks of this host that have not begun it, also
  // those that it moves nothing to or from, since others may wait for them. Where all have, its ranks on other hosts,
  // of which nothing is known; where there are none, all its ranks.
  std::string Describe(const Transfer& t) const;

 private:
  // One writer, read by the other ranks of the host.
  struct alignas(64) Progress {
    std::atomic<int64_t> num_enqueued;
    std::atomic<int64_t> at_ns;  // of SteadyNanos, when the last one was
  };
  struct Entry : Transfer {
    std::unique_ptr<Event> end;
  };
  // More than may be under way at once; of older ones only the end is of interest.
  static constexpr int kNumEntries = 64;

  absl::Status Prepare(Device& device, Stream& stream);
  const Progress* ProgressOf(int rank) const;  // null: not known
  PendingRank DescribeRank(const Transfer& t, int rank, const Progress* progress) const;

  Transport& control_;
  std::array<Entry, kNumEntries> entries_;  // by sequence
  int64_t num_begun_ = 0, num_enqueued_ = 0, first_under_way_ = 0;
  // The stream copies the number of each entry whose messages have ended from one to the other, which the host reads.
  Buffer entry_numbers_, last_ended_;
  std::shared_ptr<PeerMemory> board_;  // null: none
};

}  // namespace tokenferry

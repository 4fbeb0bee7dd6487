// What moves bytes between ranks. Backends: local (ranks as threads of one process: the meaning), mpi; decorators:
// checked, faulty. tests/comm/transport/conformance.cc holds the suite that every one of them passes.
//
// One verb, all-to-all-v, whole or in two halves; everything else (broadcast, gather, agreement) is built on it in
// comm/transport/collectives.h. All ranks make the same calls in the same order. One thread per rank calls. Every wait
// ends at the deadline with DeadlineExceeded naming this rank, the call site, the sequence number, the ranks that are
// missing, the bytes expected and arrived from each, and, for a rank of this host, its process's state. After an error
// the transport refuses every further call with that error.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/time/time.h"
#include "absl/types/span.h"
#include "comm/wait/call_site.h"
#include "core/device/device.h"
#include "core/ids.h"
#include "core/status.h"

namespace tokenferry {

class PeerGroup;

// Rank r gets bytes [send_offsets[r], send_offsets[r + 1]) of `send`; what rank r sent arrives at
// [recv_offsets[r], recv_offsets[r + 1]) of `recv`. Both offset arrays have num_ranks + 1 entries; both ends must agree
// on every size. Nothing is sent for an empty range. send and recv do not overlap.
struct AllToAllVArgs {
  const void* send = nullptr;
  absl::Span<const int64_t> send_offsets;
  void* recv = nullptr;
  absl::Span<const int64_t> recv_offsets;
  int64_t row_bytes = 0;  // when not 0, sizes are multiples of it, and errors tell them in rows
  // Of every message only a part moves, the rows RowsOfPart: a large transfer can be packed, sent and used in parts.
  int part = 0, num_parts = 1;
};

// How many parts, of at most `most`, are worth a message of their own.
int NumParts(int64_t message_bytes, int most);
// Rows [begin, end) of a message are its part `part` of `num_parts`. The parts of a large message are about equal; a
// small one has NumParts, and the last parts are empty.
struct RowRange {
  int64_t begin = 0, end = 0;
};
RowRange RowsOfPart(int64_t num_rows, int64_t row_bytes, int part, int num_parts);

// A transfer that has been started and not finished yet.
struct TransferHandle {
  int slot = -1;
};
inline constexpr int kMaxTransfersInFlight = 24;

class Transport {
 public:
  virtual ~Transport() = default;

  virtual RankId rank() const = 0;
  virtual int num_ranks() const = 0;
  virtual std::string ToString() const = 0;  // "mpi rank 2 of 4 on host a"
  virtual std::string host(RankId rank) const = 0;
  virtual absl::Duration timeout() const = 0;  // the deadline of every wait

  // Moves host memory. Begin returns at once; until Finish, which waits, `recv` is undefined and `send` must stay as it
  // is. Up to kMaxTransfersInFlight may be under way (ResourceExhausted), finished in any order, the same on all ranks.
  virtual absl::StatusOr<TransferHandle> HostBegin(const CallSite& site, const AllToAllVArgs& args) = 0;
  virtual absl::Status HostFinish(TransferHandle handle) = 0;
  absl::Status HostAllToAllV(const CallSite& site, const AllToAllVArgs& args);

  // The same for memory of kind memory_kind() in stream order: after what was enqueued before Begin, and before what is
  // enqueued after Finish. On a transport of host memory Begin synchronizes the stream, and Finish waits.
  virtual absl::StatusOr<TransferHandle> Begin(Stream& stream, const CallSite& site, const AllToAllVArgs& args) = 0;
  virtual absl::Status Finish(Stream& stream, TransferHandle handle) = 0;
  absl::Status AllToAllV(Stream& stream, const CallSite& site, const AllToAllVArgs& args);
  virtual MemoryKind memory_kind() const = 0;

  // Lets what is under way proceed, without waiting; for long computations between Begin and Finish.
  virtual void Progress() = 0;

  // Paths of the exchange call it where they move something without a transfer. Only the faulty transport does
  // something: what it does to transfers.
  virtual absl::Status EnterPhase(const CallSite& site) = 0;

  // Ends the group: peers waiting for this rank, now or later, fail with `why` (local), or are ended (mpi: MPI_Abort,
  // which does not return; 200 ms later when `why` is a deadline, so that others whose deadline ends too can speak).
  virtual void Abort(const absl::Status& why) = 0;

  // Seconds this rank has spent waiting for each rank, [num_ranks]: from the start of a wait until that rank's part
  // was complete (its bytes had come, ours had been taken), counted for the rank that was last only.
  virtual absl::Span<const double> wait_seconds_per_rank() const = 0;

  // What these ranks can do without messages (comm/peer/peer_group.h). Lives as long as this transport.
  virtual PeerGroup& peers() = 0;
};

// What transports of host memory have in common.
class HostTransport : public Transport {
 public:
  absl::StatusOr<TransferHandle> Begin(Stream& stream, const CallSite& site, const AllToAllVArgs& args) override;
  absl::Status Finish(Stream& stream, TransferHandle handle) override;
  MemoryKind memory_kind() const override { return MemoryKind::kHost; }
  void Progress() override {}
  absl::Status EnterPhase(const CallSite&) override { return absl::OkStatus(); }
};

// Both offset arrays have num_ranks + 1 entries, start at 0 or more, and do not fall; own send and receive sizes agree.
absl::Status ValidateArgs(const Transport& transport, const CallSite& site, const AllToAllVArgs& args);

}  // namespace tokenferry

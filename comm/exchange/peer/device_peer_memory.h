// The memory of path peer where ranks are GPUs: one allocation per rank, which every rank of the host maps, with its
// flags, its plan, its rows and its experts' outputs. Made once, for the largest exchange that there may be: nothing is
// allocated, agreed on or asked of the host later.
#pragma once

#include <memory>
#include <vector>

#include "comm/exchange/path/options.h"
#include "comm/exchange/peer/peer_ops.h"
#include "comm/transport/transport.h"

namespace tokenferry {

inline constexpr CallSite kStartDevicePeer{"start: peer memory"};

// The largest exchange; the same on all ranks.
struct DevicePeerCapacity {
  int64_t tokens = 0;  // of any rank
  int top_k = 0;
  int num_ranks = 0;

  int64_t send_selections() const { return tokens * top_k; }
  // Every token of every rank may choose this rank's experts alone.
  int64_t recv_selections() const { return tokens * top_k * num_ranks; }
};

// Byte offsets in one rank's allocation, multiples of 256.
struct DevicePeerLayout {
  int64_t flags, row_offsets, selection_offsets, row_token, selections, rows;  // PeerPart's, of the sender
  int64_t recv_selection_offsets, return_selection, outputs;                   // of the receiver
  int64_t num_bytes;  // whole pieces of 2 MiB: what lies in one of them can only be mapped together

  static DevicePeerLayout For(const DevicePeerCapacity& capacity, int64_t row_bytes, int64_t out_bytes);
};

class DevicePeerMemory {
 public:
  // Collective; the same status on every rank. FailedPrecondition where ranks cannot map each other's memory,
  // ResourceExhausted where there is not enough. Synchronizes `stream`. Device and transport must outlive it. Where
  // ranks are processes, it may be destroyed only when all of them have completed their work, unless the job has
  // failed. Destroying it is not collective, since after an error a rank would wait there for others that have left: it
  // unmaps the others' memory, then frees its own, which a slower rank may still have mapped but uses no more.
  static absl::StatusOr<std::unique_ptr<DevicePeerMemory>> Create(Transport& transport, Device& device, Stream& stream,
                                                                  const DevicePeerCapacity& capacity,
                                                                  const DevicePeerLayout& layout);

  const PeerPart* parts() const { return parts_.as<PeerPart>(); }                  // [R] device memory
  const SendPlanSource* sources() const { return sources_.as<SendPlanSource>(); }  // [R] device memory
  // This rank's own, to write into.
  template <class T>
  T* mine(int64_t offset) const {
    return reinterpret_cast<T*>(memory_.as<char>() + offset);
  }

 private:
  absl::Status MapAll(Transport& transport, Device& device);
  absl::Status UploadTables(Device& device, Stream& stream, const DevicePeerLayout& layout);

  Buffer memory_, parts_, sources_;
  std::vector<std::shared_ptr<void>> mapped_;  // [R] this rank's own too
};

}  // namespace tokenferry

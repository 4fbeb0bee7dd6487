// The memory of path peer where ranks are GPUs: one allocation per rank, which every rank of the host maps, with its
// flags, its plan, its rows and its experts' outputs. Made once, for the largest exchange that there may be: nothing is
// allocated, agreed on or asked of the host later.
#pragma once

#include <memory>
#include <vector>

#include "comm/exchange/path/device_capacity.h"
#include "comm/exchange/path/mapped_memory.h"
#include "comm/exchange/peer/peer_ops.h"
#include "comm/transport/transport.h"

namespace tokenferry {

inline constexpr CallSite kStartDevicePeer{"start: peer memory"};

// Byte offsets in one rank's allocation, multiples of 256.
struct DevicePeerLayout {
  int64_t flags, row_offsets, selection_offsets, row_token, selections, rows;  // PeerPart's, of the sender
  int64_t recv_selection_offsets, return_selection, outputs;                   // of the receiver
  int64_t num_bytes;                                                           // whole pieces (MappedMemory)

  static DevicePeerLayout For(const DeviceCapacity& capacity, int64_t row_bytes, int64_t out_bytes);
};

class DevicePeerMemory {
 public:
  // Collective; the same status on every rank. FailedPrecondition where ranks cannot map each other's memory,
  // ResourceExhausted where there is not enough. Synchronizes `stream`. Device and transport must outlive it; when it
  // may be destroyed, MappedMemory says.
  static absl::StatusOr<std::unique_ptr<DevicePeerMemory>> Create(Transport& transport, Device& device, Stream& stream,
                                                                  const DeviceCapacity& capacity,
                                                                  const DevicePeerLayout& layout);

  const PeerPart* parts() const { return parts_.as<PeerPart>(); }                  // [R] device memory
  const SendPlanSource* sources() const { return sources_.as<SendPlanSource>(); }  // [R] device memory
  // This rank's own, to write into.
  template <class T>
  T* mine(int64_t offset) const {
    return reinterpret_cast<T*>(own_ + offset);
  }

 private:
  absl::Status UploadTables(Device& device, Stream& stream, const DevicePeerLayout& layout);

  char* own_ = nullptr;  // in `mapped_`
  MappedMemory mapped_;
  Buffer parts_, sources_;
};

}  // namespace tokenferry

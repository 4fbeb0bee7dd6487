// Device memory that the ranks of a host read of each other: one allocation per rank, which the others map
// (Device::Export).
#pragma once

#include <memory>
#include <vector>

#include "absl/types/span.h"
#include "comm/transport/transport.h"
#include "core/device/device.h"

namespace tokenferry {

// Where ranks are processes, it may be destroyed only when all of them have completed their work, unless the job has
// failed. Destroying it is not collective, since after an error a rank would wait there for others that have left: it
// unmaps the others' memory, then frees its own, which a slower rank may still have mapped but uses no more.
class MappedMemory {
 public:
  // What lies in one such piece can only be mapped together; allocations of whole pieces keep others' memory out.
  static constexpr int64_t kPieceBytes = int64_t{2} << 20;

  // Collective over all ranks of the transport; the same status on every rank. Each gives its own allocation and maps
  // those of `ranks`, the ranks of its host, itself among them. FailedPrecondition, naming the rank, where memory
  // cannot be mapped. The device must outlive it.
  static absl::StatusOr<MappedMemory> Create(Transport& transport, const CallSite& site, Device& device, Buffer own,
                                             absl::Span<const int> ranks);

  // As this rank reaches it, inside operations; null for a rank that is not mapped.
  char* part(int rank) const { return static_cast<char*>(parts_[rank].get()); }
  int num_ranks() const { return static_cast<int>(parts_.size()); }

  // Collective, after an error that all ranks have, while the job goes on: nobody may free what another rank still
  // maps. Only destroying it may follow.
  void Unmap(Transport& transport, const CallSite& site);

 private:
  absl::Status MapAll(Transport& transport, const CallSite& site, Device& device, absl::Span<const int> ranks);

  Buffer own_;
  std::vector<std::shared_ptr<void>> parts_;  // [R] this rank's own too
};

}  // namespace tokenferry

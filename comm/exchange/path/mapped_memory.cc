#include "comm/exchange/path/mapped_memory.h"

#include <string>
#include <utility>

#include "comm/transport/collectives.h"

namespace tokenferry {

absl::StatusOr<MappedMemory> MappedMemory::Create(Transport& transport, const CallSite& site, Device& device,
                                                  Buffer own, absl::Span<const int> ranks) {
  MappedMemory memory;
  memory.own_ = std::move(own);
  const absl::Status status = memory.MapAll(transport, site, device, ranks);
  if (status.ok()) return memory;
  memory.Unmap(transport, site);
  return status;
}

absl::Status MappedMemory::MapAll(Transport& transport, const CallSite& site, Device& device,
                                  absl::Span<const int> ranks) {
  const auto exported = device.Export(own_);
  TF_RETURN_IF_ERROR(AgreeOnStatus(transport, site, exported.status()));
  TF_ASSIGN_OR_RETURN(const std::vector<std::string> all, AllGather(transport, site, *exported));
  parts_.resize(transport.num_ranks());
  absl::Status status;
  for (const int r : ranks) {
    auto mapped =
        r == transport.rank().value ? std::shared_ptr<void>(own_.data(), [](void*) {}) : device.Import(all[r]);
    if (mapped.ok()) {
      parts_[r] = *std::move(mapped);
    } else if (status.ok()) {
      status = Annotate(mapped.status(), absl::StrCat("memory of rank ", r));
    }
  }
  return AgreeOnStatus(transport, site, status);
}

// Where not even that can be agreed on, the job has failed.
void MappedMemory::Unmap(Transport& transport, const CallSite& site) {
  parts_.clear();
  Barrier(transport, site).IgnoreError();
}

}  // namespace tokenferry

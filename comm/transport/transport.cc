#include "comm/transport/transport.h"

#include <algorithm>

#include "comm/peer/peer_memory.h"

namespace tokenferry {

std::string ToString(const CallSite& site) {
  std::string out;
  if (site.layer >= 0) absl::StrAppend(&out, "layer ", site.layer, ", ");
  absl::StrAppend(&out, site.phase);
  if (site.step >= 0) absl::StrAppend(&out, ", step ", site.step);
  return out;
}

int NumParts(int64_t message_bytes, int most) {
  constexpr int64_t kMinPartBytes = 128 << 10;
  return static_cast<int>(std::clamp<int64_t>(message_bytes / kMinPartBytes, 1, most));
}

RowRange RowsOfPart(int64_t num_rows, int64_t row_bytes, int part, int num_parts) {
  const int n = NumParts(num_rows * row_bytes, num_parts);
  return {std::min(part, n) * num_rows / n, std::min(part + 1, n) * num_rows / n};
}

absl::Status Transport::HostAllToAllV(const CallSite& site, const AllToAllVArgs& args) {
  TF_ASSIGN_OR_RETURN(const TransferHandle handle, HostStart(site, args));
  return HostFinish(handle);
}

absl::StatusOr<TransferHandle> Transport::Start(Stream& stream, const CallSite& site, const AllToAllVArgs& args) {
  TF_RETURN_IF_ERROR(Annotate(stream.Synchronize(), site));
  return HostStart(site, args);
}

absl::Status Transport::Finish(Stream&, TransferHandle handle) { return HostFinish(handle); }

absl::Status Transport::AllToAllV(Stream& stream, const CallSite& site, const AllToAllVArgs& args) {
  TF_ASSIGN_OR_RETURN(const TransferHandle handle, Start(stream, site, args));
  return Finish(stream, handle);
}

absl::StatusOr<std::shared_ptr<PeerMemory>> Transport::AllocatePeerMemory(const CallSite&, int64_t) {
  return absl::FailedPreconditionError(absl::StrCat(ToString(), " has no peer memory; choose --path alltoallv"));
}

absl::StatusOr<std::shared_ptr<PeerMemory>> Transport::ReservePeerMemory(const CallSite&, int64_t) {
  return absl::FailedPreconditionError(absl::StrCat(ToString(), " has no peer memory; choose --path alltoallv"));
}

}  // namespace tokenferry

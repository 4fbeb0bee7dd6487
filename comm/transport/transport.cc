#include "comm/transport/transport.h"

#include <algorithm>

namespace tokenferry {

int NumParts(int64_t message_bytes, int most) {
  constexpr int64_t kMinPartBytes = 128 << 10;
  return static_cast<int>(std::clamp<int64_t>(message_bytes / kMinPartBytes, 1, most));
}

RowRange RowsOfPart(int64_t num_rows, int64_t row_bytes, int part, int num_parts) {
  const int n = NumParts(num_rows * row_bytes, num_parts);
  return {std::min(part, n) * num_rows / n, std::min(part + 1, n) * num_rows / n};
}

absl::Status Transport::HostAllToAllV(const CallSite& site, const AllToAllVArgs& args) {
  TF_ASSIGN_OR_RETURN(const TransferHandle handle, HostBegin(site, args));
  return HostFinish(handle);
}

absl::Status Transport::AllToAllV(Stream& stream, const CallSite& site, const AllToAllVArgs& args) {
  TF_ASSIGN_OR_RETURN(const TransferHandle handle, Begin(stream, site, args));
  return Finish(stream, handle);
}

absl::StatusOr<TransferHandle> HostTransport::Begin(Stream& stream, const CallSite& site, const AllToAllVArgs& args) {
  TF_RETURN_IF_ERROR(Annotate(stream.Synchronize(), site));
  return HostBegin(site, args);
}

absl::Status HostTransport::Finish(Stream&, TransferHandle handle) { return HostFinish(handle); }

absl::Status ValidateArgs(const Transport& transport, const CallSite& site, const AllToAllVArgs& args) {
  const size_t num_offsets = static_cast<size_t>(transport.num_ranks()) + 1;
  auto invalid = [&](absl::string_view what) {
    return absl::InvalidArgumentError(absl::StrCat(ToString(site), ": rank ", transport.rank().value, ": ", what));
  };
  if (args.send_offsets.size() != num_offsets || args.recv_offsets.size() != num_offsets) {
    return invalid(absl::StrCat("send_offsets has ", args.send_offsets.size(), " and recv_offsets ",
                                args.recv_offsets.size(), " entries, need ", num_offsets));
  }
  if (args.send_offsets[0] < 0 || args.recv_offsets[0] < 0) return invalid("offsets start below 0");
  for (size_t i = 0; i + 1 < num_offsets; ++i) {
    if (args.send_offsets[i + 1] < args.send_offsets[i]) return invalid(absl::StrCat("send_offsets fall at rank ", i));
    if (args.recv_offsets[i + 1] < args.recv_offsets[i]) return invalid(absl::StrCat("recv_offsets fall at rank ", i));
  }
  if (args.num_parts < 1 || args.part < 0 || args.part >= args.num_parts ||
      (args.num_parts > 1 && args.row_bytes < 1)) {
    return invalid(absl::StrCat("part ", args.part, " of ", args.num_parts, ", of rows of ", args.row_bytes, " bytes"));
  }
  const size_t own = static_cast<size_t>(transport.rank().value);
  const int64_t own_send = args.send_offsets[own + 1] - args.send_offsets[own];
  const int64_t own_recv = args.recv_offsets[own + 1] - args.recv_offsets[own];
  if (own_send != own_recv) {
    return invalid(absl::StrCat("sends itself ", own_send, " bytes but expects ", own_recv));
  }
  return absl::OkStatus();
}

}  // namespace tokenferry

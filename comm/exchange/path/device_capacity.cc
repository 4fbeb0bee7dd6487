#include "comm/exchange/path/device_capacity.h"

#include <algorithm>
#include <cstring>

#include "comm/ops/row_codec_ops.h"
#include "comm/transport/collectives.h"

namespace tokenferry {

absl::StatusOr<DeviceCapacity> AgreeOnDeviceCapacity(Transport& transport, const CallSite& site,
                                                     const ExchangeOptions& options) {
  const int64_t row_bytes = RowBytes(options.wire_dtype, options.hidden);
  const int64_t out_bytes = RowBytes(options.output_dtype, options.hidden);
  absl::Status status;
  if (options.max_tokens == 0 || options.max_top_k == 0) {
    status = absl::FailedPreconditionError(
        absl::StrCat("exchange: path ", ExchangePathName(options.path),
                     " on GPUs has to know the most tokens and the top-k of an exchange in advance"));
  }
  TF_RETURN_IF_ERROR(AgreeOnStatus(transport, site, status));
  const int64_t wanted[] = {options.max_tokens, options.max_top_k, row_bytes, out_bytes};
  TF_ASSIGN_OR_RETURN(const std::vector<std::string> all,
                      AllGather(transport, site, {reinterpret_cast<const char*>(wanted), sizeof(wanted)}));
  DeviceCapacity capacity{.num_ranks = transport.num_ranks()};
  for (int r = 0; r < transport.num_ranks() && status.ok(); ++r) {
    int64_t theirs[4] = {};
    if (all[r].size() == sizeof(theirs)) std::memcpy(theirs, all[r].data(), sizeof(theirs));
    capacity.tokens = std::max(capacity.tokens, theirs[0]);
    capacity.top_k = std::max(capacity.top_k, static_cast<int>(theirs[1]));
    if (theirs[2] == row_bytes && theirs[3] == out_bytes) continue;
    status = absl::FailedPreconditionError(absl::StrCat(
        "exchange: rows and outputs are of ", row_bytes, " and ", out_bytes, " bytes on rank ", transport.rank().value,
        ", of ", theirs[2], " and ", theirs[3], " on rank ", r, "; start all ranks with the same model and options"));
  }
  TF_RETURN_IF_ERROR(AgreeOnStatus(transport, site, status));
  return capacity;
}

}  // namespace tokenferry

// The largest exchange that a path allocates device memory for at its start, where nothing can be asked of the others
// later.
#pragma once

#include <cstdint>

#include "comm/exchange/path/options.h"
#include "comm/transport/transport.h"

namespace tokenferry {

// The same on all ranks.
struct DeviceCapacity {
  int64_t tokens = 0;  // of any rank
  int top_k = 0;
  int num_ranks = 0;

  int64_t send_selections() const { return tokens * top_k; }
  // Every token of every rank may choose this rank's experts alone.
  int64_t recv_selections() const { return tokens * top_k * num_ranks; }
};

// Collective; the same status on every rank. The largest of what ranks were given, max_tokens and max_top_k.
// FailedPrecondition where one does not know them, or where rows or outputs are not of one size.
absl::StatusOr<DeviceCapacity> AgreeOnDeviceCapacity(Transport& transport, const CallSite& site,
                                                     const ExchangeOptions& options);

}  // namespace tokenferry

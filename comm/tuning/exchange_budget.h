// How many tokens an exchange may take at a time within a budget of memory, wherever the router sends them.
#pragma once

#include "comm/exchange/path/options.h"
#include "core/device/device.h"
#include "core/moe/placement.h"
#include "core/status.h"

namespace tokenferry {

// Most bytes of buffers (device memory, shared memory) that an exchange by options.path with options.max_top_k can come
// to hold on one rank when no rank has more than `num_tokens` tokens, whatever their experts and the ranks'
// hosts; kAuto: of the paths for one host, whichever needs most. What is on the host to make plans does not
// count.
absl::StatusOr<int64_t> MostExchangeBytes(const ExchangeOptions& options, const Placement& placement,
                                          int64_t num_tokens, DeviceKind device = DeviceKind::kCpu);

// The most tokens, up to options.max_tokens, that fit into `budget` bytes. InvalidArgument when not even one does.
absl::StatusOr<int64_t> TokensWithin(int64_t budget, const ExchangeOptions& options, const Placement& placement,
                                     DeviceKind device = DeviceKind::kCpu);

}  // namespace tokenferry

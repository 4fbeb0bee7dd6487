// The memory of an exchange, and how many tokens it may take at a time within a budget, wherever the router sends them.
#pragma once

#include "comm/exchange/path/options.h"
#include "comm/transport/topology.h"
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

// Bytes of an exchange's buffers on one rank.
struct ExchangeMemory {
  int64_t at_start = 0;  // made with it, whatever comes
  int64_t most = 0;      // wherever tokens go
};
// For options.max_tokens. kAuto: of the path that is taken if nothing stands in its way, between hosts on CPUs of every
// path together, since there may be one for each size.
ExchangeMemory MemoryOfExchange(const ExchangeOptions& options, const Placement& placement, const Topology& topology,
                                DeviceKind device);

// The most tokens, up to options.max_tokens, that fit into `budget` bytes. InvalidArgument when not even one does.
absl::StatusOr<int64_t> TokensWithin(int64_t budget, const ExchangeOptions& options, const Placement& placement,
                                     DeviceKind device = DeviceKind::kCpu);

}  // namespace tokenferry

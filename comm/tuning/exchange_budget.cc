#include "comm/tuning/exchange_budget.h"

#include <algorithm>

#include "comm/exchange/path/path.h"
#include "comm/tuning/exchange_choice.h"

namespace tokenferry {
namespace {

// Buffers that grow take a quarter more than before, if that is more than they need.
int64_t WithRoomToGrow(int64_t num_bytes) { return num_bytes / 4 * 5; }

}  // namespace

absl::StatusOr<int64_t> MostExchangeBytes(const ExchangeOptions& options, const Placement& placement,
                                          int64_t num_tokens, DeviceKind device) {
  const WorstCase worst(options, placement, num_tokens, device);
  const Topology one_host = Topology::FromHosts(std::vector<std::string>(placement.num_ranks(), "host"));
  int64_t most = 0;
  for (const PathInfo* info : kExchangePaths) {
    const bool may_be_taken =
        options.path == ExchangePath::kAuto ? info->traffic({}, one_host).has_value() : options.path == info->path;
    if (may_be_taken) most = std::max(most, info->most_bytes(worst));
  }
  return WithRoomToGrow(most);
}

ExchangeMemory MemoryOfExchange(const ExchangeOptions& options, const Placement& placement, const Topology& topology,
                                DeviceKind device) {
  const WorstCase worst(options, placement, options.max_tokens, device);
  ExchangeMemory memory;
  const auto add = [&](const PathInfo& path) {
    const int64_t start = path.start_bytes(worst), most = path.most_bytes(worst);
    memory.at_start += start;
    memory.most += most > start ? WithRoomToGrow(most) : start;
  };
  if (MeansPeer(options.path, topology)) {
    add(kPeerPath);
  } else if (options.path != ExchangePath::kAuto) {
    add(InfoOf(options.path));
  } else if (device != DeviceKind::kCpu) {
    add(kAllToAllVPath);
  } else {
    for (const PathInfo* info : kExchangePaths) {
      if (info->traffic({}, topology)) add(*info);
    }
  }
  return memory;
}

absl::StatusOr<int64_t> TokensWithin(int64_t budget, const ExchangeOptions& options, const Placement& placement,
                                     DeviceKind device) {
  TF_ASSIGN_OR_RETURN(const int64_t least, MostExchangeBytes(options, placement, 1, device));
  if (budget < least) {
    return absl::InvalidArgumentError(absl::StrCat("exchange: a budget of ", budget, " bytes is less than the ", least,
                                                   " that one token per rank can need on path ",
                                                   ExchangePathName(options.path)));
  }
  int64_t fits = 1, too_many = std::max<int64_t>(1, options.max_tokens) + 1;
  while (too_many - fits > 1) {
    const int64_t tokens = fits + (too_many - fits) / 2;
    TF_ASSIGN_OR_RETURN(const int64_t bytes, MostExchangeBytes(options, placement, tokens, device));
    (bytes <= budget ? fits : too_many) = tokens;
  }
  return fits;
}

}  // namespace tokenferry

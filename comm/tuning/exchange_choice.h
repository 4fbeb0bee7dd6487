// How exchanges are made, by a path or by the fastest: peer memory on one host, what the cost model expects to be the
// fastest elsewhere.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "comm/exchange/exchange.h"
#include "comm/transport/topology.h"

namespace tokenferry {

// Whether that is path peer, if nothing stands in its way: kPeer, or kAuto where all ranks are on one host.
bool MeansPeer(ExchangePath path, const Topology& topology);

// Collective; errors as Exchange::Create's. kAuto is for one size, options.max_tokens (64 when 0): path peer where all
// ranks can map each other's memory, of hosts or of GPUs; else alltoallv on GPUs, and what is expected to be the
// fastest on CPUs. The same path on all ranks.
absl::StatusOr<std::unique_ptr<Exchange>> CreateExchange(Transport& transport, Device& device,
                                                         const ExchangeOptions& options);

// The path by the size of each exchange: what is fastest for one token per rank may not be for a thousand. One per
// rank; all ranks make the same calls.
class ExchangeBySize {
 public:
  // Collective. One exchange of options.path; for kAuto between hosts, one of every path that the cost model expects to
  // be the fastest at 1, 2, 4, .. or options.max_tokens tokens per rank, each with its own buffers. Errors as
  // CreateExchange's.
  static absl::StatusOr<ExchangeBySize> Create(Transport& transport, Device& device, const ExchangeOptions& options);

  // The exchange for at most `most_tokens` tokens of any rank, the same number on all ranks. A size between two that
  // the choice was made for uses the larger one's.
  Exchange& For(int64_t most_tokens) const;
  // "two_level", or "alltoallv to 16 tokens, two_level above".
  std::string ToString() const;
  absl::StatusOr<ExchangeStats> stats(Stream& stream) const;  // of all together; path: that of the largest size

 private:
  struct Size {
    int64_t max_tokens;
    Exchange* exchange;
  };
  std::vector<std::unique_ptr<Exchange>> exchanges_;
  std::vector<Size> sizes_;  // increasing; the last has no bound
};

}  // namespace tokenferry

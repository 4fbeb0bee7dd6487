// What an exchange will take on each path, from latency and bytes per second of the links between these ranks: how
// ExchangePath::kAuto chooses. Measured at start-up; values, the same on every rank.
#pragma once

#include <array>
#include <string>
#include <vector>

#include "comm/exchange/path/path.h"
#include "comm/transport/topology.h"
#include "comm/transport/transport.h"

namespace tokenferry {

// self: within a rank (a copy in memory); host: between ranks of a host; network: between hosts.
enum class LinkClass : uint8_t { kSelf, kHost, kNetwork };
inline constexpr int kNumLinkClasses = 3;

struct LinkCost {
  double latency_us = 0;      // of a transfer in which every rank sends one small message
  double per_message_us = 0;  // of each further message of a rank
  double us_per_byte = 0;  // self: a rank copies; host: a rank sends, when all do; network: a host sends, when all do
};

struct LinkCosts {
  std::array<LinkCost, kNumLinkClasses> links;
  double measured_ms = 0;  // what measuring took
  const LinkCost& of(LinkClass link) const { return links[static_cast<size_t>(link)]; }
  std::string ToString() const;  // one line per class
};

// Collective: transfers of growing size, the fastest of several each, and no size beyond the one that takes 5 ms: below
// 200 ms in all where a small message takes less than a millisecond. MeasureLinksOnce keeps them for this process:
// ranks that have measured this topology over such a transport before do not measure again. A class that these ranks
// have not is left at zero.
absl::StatusOr<LinkCosts> MeasureLinks(Transport& transport, const Topology& topology);
absl::StatusOr<LinkCosts> MeasureLinksOnce(Transport& transport, const Topology& topology);

// num_transfers latency + num_messages per_message + self_bytes us_per_byte(self) + host_bytes us_per_byte(host) +
// L network_bytes us_per_byte(network), with the latency of the slowest class there is, and L the ranks of the fullest
// host, which share its link.
double PredictMicroseconds(const PathTraffic& traffic, const LinkCosts& costs, const Topology& topology);

struct PathPrediction {
  ExchangePath path;
  PathTraffic traffic;
  double microseconds = 0;
};

struct PathChoice {
  std::vector<PathPrediction> predictions;  // fastest first
  ExchangePath path() const { return predictions.front().path; }
};
// Of all paths that are for such a topology. What each sends is its PathInfo::traffic.
PathChoice ChoosePath(const ExchangeShape& shape, const LinkCosts& costs, const Topology& topology);

// For who asks why (ExchangeOptions::on_choice): topology, parameters, predictions, the choice and why.
std::string Explain(const PathChoice& choice, const ExchangeShape& shape, const LinkCosts& costs,
                    const Topology& topology);

}  // namespace tokenferry

// What an exchange will take on each path, from latency and bytes per second of the links between these ranks: how
// --path auto chooses. Measured at start-up; values, the same on every rank.
#pragma once

#include <array>
#include <string>
#include <vector>

#include "comm/exchange/exchange.h"
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

// A typical exchange: every rank has as many tokens, and experts are chosen evenly.
struct ExchangeShape {
  int64_t tokens_per_rank = 0;
  int top_k = 0;
  int64_t hidden = 0;
  int64_t row_element_bytes = 4, out_element_bytes = 4;
  Reduction reduction = Reduction::kExact;
};

// Of T tokens with K experts each, drawn evenly over M groups, the (token, group) pairs are T M (1 - (1 - 1/M)^K).
double ExpectedPairs(const ExchangeShape& shape, int num_groups);

// One rank's part of one exchange on a path: what it sends, which the prediction is made of.
struct PathTraffic {
  double num_transfers = 0;  // one after another
  double num_messages = 0;   // beyond the first of each transfer
  double self_bytes = 0;     // copied in the rank's memory: packing, forwarding
  double host_bytes = 0;     // to other ranks of its host
  double network_bytes = 0;  // to other hosts
};
// alltoallv:  4 transfers to R - 1 ranks; rows D_R H b, outputs 4 T K H.
// allgather:  3 ceil(log2 R) transfers to one rank, rows T H b (R - 1); and the combine of alltoallv.
// two_level:  4 transfers (reduction node: 5); rows D_N H b and outputs 4 T K H (node: 4 D_N H) over the network, and
//             nothing inside.
// peer:       nothing is sent: a flag raised and seen, which is less than a transfer, for each of 3 phases; rows T H b
//             copied.
// Outputs of 4 bytes per element stand for those of out_element_bytes. D_G: ExpectedPairs over G ranks or hosts. Of
// pairs with ranks, 1/R are the rank's own and (L - 1)/R its host's.
PathTraffic ExpectedTraffic(ExchangePath path, const ExchangeShape& shape, const Topology& topology);

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
// Paths alltoallv and allgather, and with several hosts two_level, on one host peer.
PathChoice ChoosePath(const ExchangeShape& shape, const LinkCosts& costs, const Topology& topology);

// What --explain prints: topology, parameters, predictions, the choice and why.
std::string Explain(const PathChoice& choice, const ExchangeShape& shape, const LinkCosts& costs,
                    const Topology& topology);

}  // namespace tokenferry

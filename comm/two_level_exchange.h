// Path two_level: of each token one row per host crosses the network, to the rank that serves this one there
// (comm/two_level_plan.h), which forwards it to the ranks of its host that need it. Uneven hosts are fine.
//
// Of this rank's tokens: D_h = distinct (token, host) pairs, D = (token, rank) pairs, S = selections, those for its own
// host included; N hosts of L ranks, hidden size H, b bytes per element of a dispatched row. Sent by it, and for it:
//
//   phase               where               bytes                                       messages
//   plan                everywhere          as path alltoallv, + 4 (1 + 2 L) N + 4 D    2 more to each of its N servers
//                                           (Reduction::kNode: + 4 (D_h + S))
//   dispatch rows       network             D_h H b                                     1 per server
//   forward rows        inside each host    D H b                                       1 per rank of the host
//   combine inside      inside each host    4 S H                                       1 per rank of the host
//   combine rows        network             4 S H; Reduction::kNode: 4 D_h H            1 per server
//   combine weights     network             Reduction::kNode: 4 S                       1 per server
//
// Reduction::kExact sums at home, selection by selection: the bits of every other path. Reduction::kNode sums a token's
// selections of one host there, in increasing expert index, and the hosts' sums at home, by lowest rank of the host.
#pragma once

#include <memory>

#include "comm/exchange.h"
#include "comm/topology.h"

namespace tokenferry {

std::unique_ptr<Exchange> CreateTwoLevelExchange(Transport& transport, Device& device, const ExchangeOptions& options,
                                                 const Topology& topology);

}  // namespace tokenferry

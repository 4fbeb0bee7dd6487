// What an exchange moves, counted in the ways people count it.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "comm/plan/exchange_plan.h"
#include "comm/transport/topology.h"

namespace tokenferry {

// Rows that a dispatch needs, if it sends each ..
struct RowBases {
  int64_t selection = 0;  // once per (token, expert)
  int64_t rank = 0;       // once per (token, rank), the own rank included
  int64_t node = 0;       // once per (token, host), the own host included
  int64_t wire = 0;       // `node` without the own host: what a network carries at least
  RowBases& operator+=(const RowBases& other);
  friend bool operator==(const RowBases&, const RowBases&) = default;
};

// Of one rank's plan. `last_host` is scratch memory of the caller, kept so that nothing is allocated in steady state.
RowBases CountBases(const SendPlan& plan, const Topology& topology, RankId self, std::vector<int32_t>& last_host);

// Bytes by what carries them: copied within a rank, between ranks of a host, between hosts.
struct LinkBytes {
  int64_t self = 0, host = 0, network = 0;
  LinkBytes& operator+=(const LinkBytes& other);
  friend bool operator==(const LinkBytes&, const LinkBytes&) = default;
};

// `bytes_per_rank` [R] left rank `self`.
LinkBytes BytesPerLink(absl::Span<const int64_t> bytes_per_rank, const Topology& topology, RankId self);

}  // namespace tokenferry

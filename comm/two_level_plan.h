// What path two_level needs beyond the ExchangePlan: who serves whom, and what a server is told. Values without I/O.
//
// Source rank s reaches the ranks of another host B through one of them, its server there: the rank of B with s's local
// index, modulo the number of ranks of B. On its own host each rank serves itself. So a rank with local index i of a
// host with L ranks serves itself and, of every other host, the ranks with local index i, i + L, i + 2 L, ..
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/types/span.h"
#include "comm/exchange_plan.h"
#include "comm/topology.h"

namespace tokenferry {

// The view of one rank.
struct TwoLevelRoutes {
  RankId me;
  std::vector<Topology::Host> hosts;      // as in the topology
  std::vector<int> server_per_host;       // [N] who serves this rank's tokens there; this rank itself on its host
  std::vector<int> ranks;                 // of this host, increasing
  std::vector<std::vector<int>> sources;  // [ranks] whom each of them serves, increasing
  int local_idx = 0;                      // of this rank in `ranks`

  static TwoLevelRoutes Make(const Topology& topology, RankId me);
  const std::vector<int>& my_sources() const { return sources[local_idx]; }
};

enum class Reduction : uint8_t;

// What a rank tells its server on one host. The host's rows are its tokens with a selection there, in order; a block's
// selections are those of the host's first rank, then of its second, .., each in SendPlan's order.
struct HostMessage {
  std::vector<int32_t> row_token;  // [n] token of each row
  // [1 + 2 L] number of rows, then rows and selections of each of the host's ranks. Travels.
  std::vector<int32_t> counts;
  // For each of the host's ranks the rows that it gets; then, when the server reduces: [n] selections of each row, and,
  // for each row in increasing expert index, the selection's position in the block. Travels.
  std::vector<int32_t> lists;
  // When the server reduces: token and top-k position of the weights, in the order of the positions.
  std::vector<int32_t> weight_token, weight_k;
};
HostMessage BuildHostMessage(const SendPlan& plan, const Topology::Host& host, Reduction reduction);

// A server's view of one source.
struct ServedSource {
  int source = 0;
  absl::Span<const int32_t> counts;  // [1 + 2 L]
  absl::Span<const int32_t> lists;

  int num_ranks() const { return static_cast<int>(counts.size() - 1) / 2; }
  int64_t num_rows() const { return counts[0]; }
  int64_t rows_for(int local) const { return counts[1 + 2 * local]; }
  int64_t selections_for(int local) const { return counts[2 + 2 * local]; }
  int64_t num_forwards() const;
  int64_t num_selections() const;
  int64_t num_lists(Reduction reduction) const;  // entries that `lists` must have
  absl::Span<const int32_t> forwards() const { return lists.first(num_forwards()); }
  absl::Span<const int32_t> selections_per_row() const { return lists.subspan(num_forwards(), num_rows()); }
  absl::Span<const int32_t> positions() const { return lists.subspan(num_forwards() + num_rows()); }
};

// Both come from a peer: DataLoss naming it and the value. The first needs `counts` alone and comes before memory is
// allocated for `lists`.
absl::Status ValidateCounts(const ServedSource& served);
absl::Status ValidateLists(const ServedSource& served, Reduction reduction);

}  // namespace tokenferry

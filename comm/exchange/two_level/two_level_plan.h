// What path two_level needs beyond the ExchangePlan: who serves whom, which rows a host gets, where everything lies in
// the memory that a host's ranks share, and what its ranks tell each other there. Values without I/O.
//
// Source rank s reaches the ranks of another host B through one of them, its server there: the rank of B with s's local
// index, modulo the number of ranks of B. On its own host each rank serves itself. So a rank with local index i of a
// host with L ranks serves, of every other host, the ranks with local index i, i + L, i + 2 L, .., and itself.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/types/span.h"
#include "comm/peer/peer_memory.h"
#include "comm/plan/exchange_plan.h"
#include "comm/transport/topology.h"

namespace tokenferry {

inline constexpr int64_t kPage = 4096;  // what shared memory is taken in; its regions begin on one

// The view of one rank.
struct TwoLevelRoutes {
  RankId me;
  std::vector<Topology::Host> hosts;      // as in the topology
  int my_host = 0;                        // into hosts
  std::vector<int> server_per_host;       // [N] who serves this rank's tokens there; this rank itself on its host
  std::vector<int> others_by_server;      // [N - 1] other hosts by their server's rank: messages' order in a buffer
  std::vector<int> ranks;                 // of this host, increasing
  std::vector<std::vector<int>> sources;  // [ranks] whom each of them serves: others, increasing, then itself
  int local_idx = 0;                      // of this rank in `ranks`

  static TwoLevelRoutes Make(const Topology& topology, RankId me);
  const std::vector<int>& my_sources() const { return sources[local_idx]; }
  // Selections of this rank that other hosts serve.
  int64_t NumSentAway(const SendPlan& send) const;
};

// What this rank sends. A host's rows are its tokens with a selection there, in order of tokens.
struct HostPlan {
  std::vector<std::vector<int32_t>> row_token;  // [N] token of each row for a host
  // The SendPlan as the ranks of a host are told: to each of them row_offsets counts all rows of its host, and
  // selections name those. Without what home alone needs.
  SendPlan told;
  std::vector<int32_t> row_of_token;  // scratch
};
// Replaces `plan`, whose memory is reused.
void BuildHostPlan(const SendPlan& send, absl::Span<const Topology::Host> hosts, HostPlan& plan);

// Where things lie in a rank's part of a host's memory, from its start: flags, then twice (by parity) what the rank
// tells the others, then the rows that it serves, each source's behind the other's in order of TwoLevelRoutes::sources,
// then its experts' outputs, and behind them what came back to it. Rows and outputs of all parts are rows of one
// matrix: item i of rank r has index r * rows_per_rank + i, r * outputs_per_rank + i.
struct TwoLevelLayout {
  int64_t published[2] = {};
  int64_t rows = 0;
  int64_t outputs = 0;
  int64_t bytes_per_rank = 0;
  int64_t rows_per_rank = 0;
  int64_t outputs_per_rank = 0;
  int64_t max_items = 0;  // rows, outputs, selections
};
// ResourceExhausted when indices of 32 bits do not reach far enough for `num_ranks`.
absl::StatusOr<TwoLevelLayout> MakeTwoLevelLayout(int num_ranks, int64_t row_bytes, int64_t out_bytes);

// What a rank tells the ranks of its host about one selection that its experts serve.
struct PublishedSelection {
  int32_t row = 0;     // of the source's rows for this host
  int32_t expert = 0;  // logical
  int32_t output = 0;  // of the rank's outputs
};

// A rank's part of a plan as the others of its host read it, at TwoLevelLayout::published.
struct PublishedPlan {
  int64_t num_rows = 0;                             // that it serves
  absl::Span<const int64_t> selection_offsets;      // [R + 1] by source
  absl::Span<const PublishedSelection> selections;  // in the source's order

  static int64_t NumBytes(int num_ranks, int64_t num_selections);
  static void Write(int64_t num_served_rows, const RecvPlan& recv, absl::Span<const WireSelection> arrived,
                    absl::Span<const int> slot_expert, char* out);
  // DataLoss naming `rank` when what it has written does not hold together.
  static absl::StatusOr<PublishedPlan> Read(const char* in, int rank, int num_ranks, const TwoLevelLayout& layout);
};

// A term of a sum.
struct HostTerm {
  int32_t expert = 0, output = 0, position = 0;
};

// The sums that a server makes: of each row that it serves, in order, its selections on this host, by increasing expert
// index.
struct HostSums {
  std::vector<int64_t> offsets;   // [rows + 1] into the next two
  std::vector<int32_t> output;    // index of an output
  std::vector<int32_t> position;  // among the served selections: of each source, rank by rank of this host
  std::vector<HostTerm> terms;    // scratch, as the next
  std::vector<int64_t> next;
};
// `published` is [ranks of the host], `row_counts` [R] of each source's rows for this host. Replaces `sums`,
// whose memory is reused. DataLoss naming a rank.
absl::Status BuildHostSums(const TwoLevelRoutes& routes, absl::Span<const PublishedPlan> published,
                           absl::Span<const int64_t> row_counts, int64_t outputs_per_rank, HostSums& sums);

}  // namespace tokenferry

#include "comm/plan/exchange_traffic.h"

#include <utility>

namespace tokenferry {

RowBases& RowBases::operator+=(const RowBases& other) {
  selection += other.selection;
  rank += other.rank;
  node += other.node;
  wire += other.wire;
  return *this;
}

LinkBytes& LinkBytes::operator+=(const LinkBytes& other) {
  self += other.self;
  host += other.host;
  network += other.network;
  return *this;
}

RowBases CountBases(const SendPlan& plan, const Topology& topology, RankId self, std::vector<int32_t>& last_host) {
  RowBases bases{.selection = plan.selection_offsets.back(), .rank = plan.row_offsets.back()};
  if (topology.num_hosts() == topology.num_ranks()) {  // no two rows of a token go to one host
    const int64_t own = plan.row_offsets[self.value + 1] - plan.row_offsets[self.value];
    bases.node = bases.rank;
    bases.wire = bases.rank - own;
    return bases;
  }
  last_host.assign(plan.num_tokens, -1);
  for (int32_t h = 0; h < topology.num_hosts(); ++h) {
    int64_t num_tokens = 0;
    for (RankId r : topology.hosts[h].ranks) {
      for (int64_t i = plan.row_offsets[r.value]; i < plan.row_offsets[r.value + 1]; ++i) {
        num_tokens += std::exchange(last_host[plan.row_token[i]], h) != h;
      }
    }
    bases.node += num_tokens;
    if (h != topology.host_idx_per_rank[self.value]) bases.wire += num_tokens;
  }
  return bases;
}

LinkBytes BytesPerLink(absl::Span<const int64_t> bytes_per_rank, const Topology& topology, RankId self) {
  LinkBytes links;
  for (int r = 0; r < topology.num_ranks(); ++r) {
    int64_t& link = r == self.value ? links.self : topology.same_host(RankId(r), self) ? links.host : links.network;
    link += bytes_per_rank[r];
  }
  return links;
}

}  // namespace tokenferry

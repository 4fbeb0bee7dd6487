// Which ranks share a host. A value, the same on every rank.
#pragma once

#include <string>
#include <vector>

#include "comm/transport/transport.h"

namespace tokenferry {

struct Topology {
  struct Host {
    std::string name;
    std::vector<RankId> ranks;  // increasing
  };
  std::vector<Host> hosts;              // by their lowest rank
  std::vector<int> host_idx_per_rank;   // [R] into `hosts`
  std::vector<int> local_idx_per_rank;  // [R] position among the ranks of its host

  int num_ranks() const { return static_cast<int>(host_idx_per_rank.size()); }
  int num_hosts() const { return static_cast<int>(hosts.size()); }
  bool same_host(RankId a, RankId b) const { return host_idx_per_rank[a.value] == host_idx_per_rank[b.value]; }
  std::string ToString() const;  // "4 ranks on 2 hosts: a (ranks 0 1), b (ranks 2 3)"

  static Topology FromHosts(const std::vector<std::string>& host_per_rank);
  static Topology Of(const Transport& transport);
};

}  // namespace tokenferry

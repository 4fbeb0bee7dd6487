#include "comm/transport/topology.h"

#include <algorithm>

namespace tokenferry {

Topology Topology::FromHosts(const std::vector<std::string>& host_per_rank) {
  Topology t;
  for (size_t r = 0; r < host_per_rank.size(); ++r) {
    const auto same = [&](const Host& host) { return host.name == host_per_rank[r]; };
    auto host = std::find_if(t.hosts.begin(), t.hosts.end(), same);
    if (host == t.hosts.end()) host = t.hosts.insert(t.hosts.end(), Host{host_per_rank[r], {}});
    t.host_idx_per_rank.push_back(static_cast<int>(host - t.hosts.begin()));
    t.local_idx_per_rank.push_back(static_cast<int>(host->ranks.size()));
    host->ranks.push_back(RankId(static_cast<int>(r)));
  }
  return t;
}

Topology Topology::Of(const Transport& transport) {
  std::vector<std::string> host_per_rank;
  for (int r = 0; r < transport.num_ranks(); ++r) host_per_rank.push_back(transport.host(RankId(r)));
  return FromHosts(host_per_rank);
}

std::string Topology::ToString() const {
  std::string out = absl::StrCat(num_ranks(), num_ranks() == 1 ? " rank on " : " ranks on ", num_hosts(),
                                 num_hosts() == 1 ? " host: " : " hosts: ");
  const char* separator = "";
  for (const Host& host : hosts) {
    absl::StrAppend(&out, separator, host.name, " (ranks");
    for (RankId r : host.ranks) absl::StrAppend(&out, " ", r.value);
    absl::StrAppend(&out, ")");
    separator = ", ";
  }
  return out;
}

}  // namespace tokenferry

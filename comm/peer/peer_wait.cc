#include "comm/peer/peer_wait.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace tokenferry {

std::string DescribePeerWait(const PeerGroup& peers, const CallSite& site, int64_t sequence,
                             const std::vector<PendingRank>& pending) {
  std::string text = DescribeWait(site, sequence, peers.rank(), pending);
  for (int r = 0; r < peers.num_ranks(); ++r) {
    const RankId rank(r);
    const bool is_pending =
        std::any_of(pending.begin(), pending.end(), [&](const PendingRank& p) { return p.rank == rank; });
    if (is_pending || rank == peers.rank() || peers.ProcessStateOf(rank) != "gone") continue;
    absl::StrAppend(&text, "; rank ", r, " on host ", peers.host(rank), " is gone");
  }
  return text;
}

}  // namespace tokenferry

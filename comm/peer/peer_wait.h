// What a rank says of a wait, where it can see the processes of others.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "comm/peer/peer_group.h"
#include "comm/wait/wait.h"

namespace tokenferry {

// DescribeWait (comm/wait/wait.h) of peers.rank(), and which ranks that it does not wait for are gone: whom it waits
// for may wait for those.
std::string DescribePeerWait(const PeerGroup& peers, const CallSite& site, int64_t sequence,
                             const std::vector<PendingRank>& pending);

}  // namespace tokenferry

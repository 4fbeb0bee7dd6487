// Ranks as threads, each with a GPU of its own, over NCCL.
#pragma once

#include <functional>

#include "comm/transport/transport.h"

namespace tokenferry {

// How many such ranks this machine allows.
int MostNcclRanks();

// `num_ranks` threads; messages of the host's memory go by the local transport. A rank's part of the group ends with
// its `body`.
using NcclRankBody = std::function<void(Transport&, Device&)>;
void RunNcclThreads(int num_ranks, absl::Duration timeout, const NcclRankBody& body);

}  // namespace tokenferry

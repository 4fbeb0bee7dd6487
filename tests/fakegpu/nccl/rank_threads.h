// Ranks as threads over the fake NCCL, any of which may die or hang.
#pragma once

#include <functional>
#include <vector>

#include "comm/transport/transport.h"
#include "tests/fakegpu/nccl/faults.h"

namespace tokenferry::fakegpu {

struct RankEnd {
  absl::Status status;  // of the start, else of the body
  bool has_died = false;
};

// Runs `body` on `num_ranks` GPUs that the fake has then; orders are drawn from `seed`. A rank that hangs is released
// when the others have ended.
std::vector<RankEnd> RunRanks(int num_ranks, uint32_t seed, absl::Duration timeout,
                              const std::function<absl::Status(Transport&, Device&)>& body);

}  // namespace tokenferry::fakegpu

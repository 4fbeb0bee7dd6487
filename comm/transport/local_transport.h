// Transport between ranks that are threads of one process. One copy, from the sender's memory to the receiver's.
#pragma once

#include <memory>
#include <vector>

#include "comm/transport/transport.h"

namespace tokenferry {

struct LocalTransportOptions {
  absl::Duration timeout = absl::Seconds(30);  // of every wait
};

// [num_ranks], by rank; each is used by one thread and may outlive the others. Those that wait
// for a rank that ends with an error, now or later, get that error and do not wait out the deadline. Sizes that do not
// agree are an error on the rank that notices, and so on the other end.
std::vector<std::unique_ptr<Transport>> CreateLocalGroup(int num_ranks, const LocalTransportOptions& options = {});

}  // namespace tokenferry

// Runs a test's body on every rank of a group: ranks as threads, or this process as one rank of an mpirun job.
#pragma once

#include <functional>
#include <memory>
#include <ostream>
#include <string>
#include <vector>

#include "comm/transport/transport.h"

namespace tokenferry {

enum class Backend { kLocal, kCheckedLocal, kFaultyLocal, kMpi, kCheckedMpi };
const char* BackendName(Backend backend);

using RankBody = std::function<void(Transport&)>;

// `num_ranks` threads. kFaultyLocal has no faults.
void RunThreads(Backend backend, int num_ranks, absl::Duration timeout, const RankBody& body);
// Every process of the job.
void RunProcesses(Backend backend, absl::Duration timeout, const RankBody& body);

// `num_ranks` threads that wait a second for each other, of which rank 1 does not come to `phase` before the others
// have ended. What the body returned on each.
std::vector<absl::Status> RunWithOneStuck(int num_ranks, const std::string& phase,
                                          const std::function<absl::Status(Transport&)>& body);

}  // namespace tokenferry

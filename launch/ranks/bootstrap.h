// From the shared flags to running ranks, and from a rank's error to the process's exit status.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "comm/transport/topology.h"
#include "comm/transport/transport.h"
#include "core/device/device.h"
#include "launch/cli/shared_flags.h"
#include "launch/ranks/launcher.h"
#include "launch/ranks/rank_setup.h"

namespace tokenferry {

// What a command runs with, on one rank. Everything lives until the body returns.
struct RankContext {
  const SharedFlags& flags;
  Transport& transport;
  Device& device;
  const Topology& topology;
  const std::vector<int64_t>& gpu_per_rank;  // RankSetup's, like the next
  int gpu_ordinal = -1;
  Isa isa = Isa::kPortable;  // the same on all ranks
  int num_threads = 1;       // kernel threads of this rank
  std::vector<int> cpus;     // theirs; empty: any

  RankId rank() const { return transport.rank(); }
  int num_ranks() const { return transport.num_ranks(); }
};

// The ranks that the flags ask for under this launcher.
struct RankPlan {
  TransportChoice transport = TransportChoice::kLocal;  // of host memory: kLocal or kMpi
  NcclUse nccl = NcclUse::kNever;
  int num_ranks = 1;
};
// InvalidArgument when the flags contradict the launcher. The same on every rank, unless the launcher tells no size:
// then those behind rank 0, which know that there are several, may be the only ones to refuse, and say so themselves.
absl::StatusOr<RankPlan> PlanRanks(const SharedFlags& flags, const LauncherInfo& launcher);

// Starts the ranks of `plan`, runs `body` on each, and returns the process's exit status: 0 when all bodies returned
// OK.
//  * mpi: this process is one rank; collective over the job. local: every rank is a thread of this process.
//  * An error that a body returns from AgreeOnStatus is printed once, by rank 0: "tokenferry: MESSAGE". Any other is
//    printed by its rank, "tokenferry: rank R: MESSAGE", and ends the others within two seconds (Transport::Abort);
//    then this function does not return, but ends the process with status 1.
//  * A job that ends because nobody reads its results (stdout_watch.h) has nothing to say, and its status is 0.
//  * SIGTERM under mpirun (which it sends at Ctrl-C, and when a rank has died) ends a job between two steps, without a
//    word, if all ranks are there. A rank that waits in vain says for whom; one that does not wait ends three seconds
//    later. Otherwise signals end the process at once.
int RunRanks(const SharedFlags& flags, const RankPlan& plan, absl::FunctionRef<absl::Status(RankContext&)> body);

// As many open files for this process as the system allows. The usual limit of 1024 is meant for programs that use
// select(). Eight ranks as threads that read a model of 163 shards have 1304 files open, a rank of a large MPI job has
// a socket for every other one, and so has a server, or a client that loads one, for every request.
void RaiseFileLimit();

// Prints "tokenferry: MESSAGE" in one line on stderr.
void PrintError(absl::string_view message);

}  // namespace tokenferry

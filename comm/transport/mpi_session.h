// MPI_Init and MPI_Finalize around a program's work. Works under mpirun and alone (one rank).
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "core/status.h"

namespace tokenferry {

enum class OnSigterm : uint8_t {
  kRequestStop,  // SIGTERM calls RequestStop (comm/wait/wait.h): waiting transfers end with Cancelled
  kLeave,        // the program handles SIGTERM itself
};

class MpiSession {
 public:
  // Once per process, before threads are started. Sets defaults of Open MPI in the environment where the user has set
  // nothing: no single-copy transfers where the system forbids reading another process's memory, and no warnings about
  // networks that are not there.
  static absl::StatusOr<std::unique_ptr<MpiSession>> Start(OnSigterm on_sigterm);

  // MPI_Finalize, a collective; stays a while where the launcher is too busy to take note of it (3 s). A program that
  // ends with an error after a failed transfer calls Transport::Abort instead: there is no one left to finalise with.
  ~MpiSession();

  int num_ranks() const;  // of MPI_COMM_WORLD

  // Open MPI maps a file per rank in /dev/shm, which would stay for ever if mpirun is killed before it can clean up (a
  // second Ctrl-C does that). Takes away the name of this rank's own: the memory lasts as long as somebody maps it. To
  // be called once all ranks have come back from Start, since they open each other's files there. Does nothing when
  // this process does not map a file of each of `num_local_ranks`, the ranks of this host: somebody may still need the
  // name.
  void UnlinkSharedFiles(int num_local_ranks);

  MpiSession(const MpiSession&) = delete;
  MpiSession& operator=(const MpiSession&) = delete;

 private:
  MpiSession() = default;
  std::vector<std::string> unlinked_;
};

// Sets what Start sets in the environment; for programs with their own MPI_Init.
void SetMpiEnvironmentDefaults();

}  // namespace tokenferry

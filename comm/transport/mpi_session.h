// MPI_Init and MPI_Finalize around a program's work. Works under mpirun and alone (one rank).
#pragma once

#include <memory>

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

  // MPI_Finalize, a collective. A program that ends with an error after a failed transfer calls Transport::Abort
  // instead: there is no one left to finalise with.
  ~MpiSession();
  MpiSession(const MpiSession&) = delete;
  MpiSession& operator=(const MpiSession&) = delete;

 private:
  MpiSession() = default;
};

// Sets what Start sets in the environment; for programs with their own MPI_Init.
void SetMpiEnvironmentDefaults();

}  // namespace tokenferry

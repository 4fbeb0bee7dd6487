// What started this process (mpirun, srun, ..), by the variables that it has set.
#pragma once

#include <string>

#include "core/status.h"

namespace tokenferry {

struct LauncherInfo {
  bool launched = false;  // as one of several ranks, or as the only one
  int rank = 0;
  int num_ranks = 1;
  bool tells_size = true;  // false: of the size nothing is known but that there is this rank, and num_ranks is rank + 1
  std::string name;        // "Open MPI's mpirun"; for messages
};

// From the environment: Open MPI, MPICH and Intel MPI (PMI), MVAPICH, Flux, PALS, PMIx, Slurm's srun. When several have
// set variables, as mpirun within a Slurm job does, the one that is nearest to the process counts. Slurm's variables
// for a whole job mean nothing here: a batch script has them too.
LauncherInfo GetLauncherInfo();

// FailedPrecondition, naming the launcher and both sizes, when it has started more ranks than MPI knows of: then every
// process would run the whole job. A launcher that tells no size is taken to have started two at least: who starts one
// rank says so with --transport local, which asks neither it nor MPI. `mpi_num_ranks`: MPI_Comm_size of MPI_COMM_WORLD.
absl::Status CheckLauncher(const LauncherInfo& launcher, int mpi_num_ranks);

// Whether this host has any network, be it the loopback alone: Open MPI's mpirun talks to its ranks over one, and
// without dies with a message about PMIx. True where the system does not tell. As tf_has_network of
// launch/scripts/mpirun_env.sh.
bool HasNetwork();

}  // namespace tokenferry

#include "launch/ranks/launcher.h"

#include <algorithm>
#include <cstdlib>

#include "absl/strings/numbers.h"

namespace tokenferry {
namespace {

struct LauncherVariables {
  const char* name;
  const char* set_by_it;  // present: this launcher
  const char* size;
  const char* rank;
};

constexpr char kSrun[] = "srun";

// The nearest first: mpirun runs under srun, never the other way round.
constexpr LauncherVariables kLaunchers[] = {
    {"Open MPI's mpirun", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"},
    {"the mpiexec of MPICH or Intel MPI (PMI)", "PMI_SIZE", "PMI_SIZE", "PMI_RANK"},
    {"MVAPICH's mpirun", "MV2_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE", "MV2_COMM_WORLD_RANK"},
    {"the mpiexec of MPICH or Intel MPI", "MPI_LOCALNRANKS", "MPI_LOCALNRANKS", "MPI_LOCALRANKID"},
    {"Flux", "FLUX_JOB_SIZE", "FLUX_JOB_SIZE", "FLUX_TASK_RANK"},
    {"the mpiexec of PALS", "PALS_RANKID", "PALS_RANKID", "PALS_RANKID"},  // says no size: at least rank + 1
    {"a PMIx launcher", "PMIX_SIZE", "PMIX_SIZE", "PMIX_RANK"},
    {"srun --mpi=pmix", "PMIX_RANK", "SLURM_STEP_NUM_TASKS", "PMIX_RANK"},
    {kSrun, "SLURM_STEP_NUM_TASKS", "SLURM_STEP_NUM_TASKS", "SLURM_PROCID"},
    {kSrun, "SLURM_STEPID", "SLURM_NTASKS", "SLURM_PROCID"},
};

int IntFromEnvironment(const char* name, int otherwise) {
  const char* text = std::getenv(name);
  int value = 0;
  return text != nullptr && absl::SimpleAtoi(text, &value) ? value : otherwise;
}

}  // namespace

LauncherInfo GetLauncherInfo() {
  for (const LauncherVariables& variables : kLaunchers) {
    if (std::getenv(variables.set_by_it) == nullptr) continue;
    LauncherInfo info{.launched = true, .name = variables.name};
    info.rank = std::max(0, IntFromEnvironment(variables.rank, 0));
    info.num_ranks = std::max(info.rank + 1, IntFromEnvironment(variables.size, 1));
    if (info.name == kSrun && info.num_ranks == 1) return {};  // a program in the shell of `srun --pty`
    return info;
  }
  return {};
}

absl::Status CheckLauncher(const LauncherInfo& launcher, int mpi_num_ranks) {
  if (!launcher.launched || launcher.num_ranks <= mpi_num_ranks) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat(
      launcher.name, " has started ", launcher.num_ranks, " ranks, but MPI knows of ", mpi_num_ranks,
      ": it is not the launcher of the MPI library that tokenferry was built with (Open MPI). Use Open MPI's mpirun "
      "(mpirun.openmpi on Debian), srun --mpi=pmix where Slurm has it, or on one host no launcher and --ranks ",
      launcher.num_ranks));
}

}  // namespace tokenferry

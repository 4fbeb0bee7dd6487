#include "launch/ranks/launcher.h"

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"

namespace tokenferry {
namespace {

struct LauncherVariables {
  const char* name;
  const char* set_by_it;  // present: this launcher
  const char* size;       // not set: it tells none
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
    {"the mpiexec of PALS", "PALS_RANKID", nullptr, "PALS_RANKID"},
    {"a PMIx launcher", "PMIX_SIZE", "PMIX_SIZE", "PMIX_RANK"},
    {"srun --mpi=pmix", "PMIX_RANK", "SLURM_STEP_NUM_TASKS", "PMIX_RANK"},
    {"a PMIx launcher", "PMIX_RANK", nullptr, "PMIX_RANK"},
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
    const bool tells_size = variables.size != nullptr;
    if (std::getenv(variables.set_by_it) == nullptr || (tells_size && std::getenv(variables.size) == nullptr)) continue;
    LauncherInfo info{.launched = true, .name = variables.name};
    info.rank = std::max(0, IntFromEnvironment(variables.rank, 0));
    info.tells_size = tells_size;
    info.num_ranks = std::max(info.rank + 1, tells_size ? IntFromEnvironment(variables.size, 1) : 1);
    if (info.name == kSrun && info.num_ranks == 1) return {};  // a program in the shell of `srun --pty`
    return info;
  }
  return {};
}

absl::Status CheckLauncher(const LauncherInfo& launcher, int mpi_num_ranks) {
  const int least = launcher.tells_size ? launcher.num_ranks : std::max(2, launcher.num_ranks);
  if (!launcher.launched || least <= mpi_num_ranks) return absl::OkStatus();
  const std::string size = launcher.tells_size
                               ? absl::StrCat(" has started ", launcher.num_ranks, " ranks, but MPI knows of ")
                               : absl::StrCat(" does not tell how many ranks it has started, and MPI knows of ");
  return absl::FailedPreconditionError(absl::StrCat(
      launcher.name, size, mpi_num_ranks,
      ": it is not the launcher of the MPI library that tokenferry was built with (Open MPI). Use Open MPI's mpirun "
      "(mpirun.openmpi on Debian), srun --mpi=pmix where Slurm has it, or on one host no launcher and --ranks ",
      launcher.tells_size ? absl::StrCat(launcher.num_ranks) : "N; a rank that is alone takes --transport local"));
}

bool HasNetwork() {
  std::ifstream routes("/proc/net/fib_trie");
  if (!routes) return true;
  for (std::string line; std::getline(routes, line);) {
    if (absl::StrContains(line, "LOCAL")) return true;
  }
  return false;
}

}  // namespace tokenferry

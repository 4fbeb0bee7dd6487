#include "launch/cli/version.h"

#include <mpi.h>

#include "absl/strings/str_cat.h"
#include "launch/cli/version_info.h"

namespace tokenferry {

std::string VersionNumber() { return kVersionNumber; }

std::string VersionText() {
  char library[MPI_MAX_LIBRARY_VERSION_STRING] = "";
  int length = 0;
  // May be called before MPI_Init. The library's own words go on with its packager and date.
  const bool known = MPI_Get_library_version(library, &length) == MPI_SUCCESS;
  const std::string mpi = known ? std::string(library, length) : "unknown";
  return absl::StrCat("tokenferry ", kVersionNumber, " (commit ", kCommit, ")\nMPI: ", mpi.substr(0, mpi.find(',')),
                      "\nCUDA toolkit: ", kCudaToolkit, "\n");
}

}  // namespace tokenferry

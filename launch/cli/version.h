// Which program this is, for reports of faults.
#pragma once

#include <string>

namespace tokenferry {

std::string VersionNumber();  // "0.1.0"

// Lines: version and commit, the MPI library that is loaded, the CUDA toolkit it was built with. `tokenferry
// --version`.
std::string VersionText();

}  // namespace tokenferry

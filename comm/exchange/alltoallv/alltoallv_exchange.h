// Path alltoallv: one packed message per peer, one row per (token, destination rank) whatever number of that rank's
// experts the token has chosen. Works on every transport.
#pragma once

#include <memory>

#include "comm/exchange/path/path.h"

namespace tokenferry {

std::unique_ptr<PathMover> CreateAllToAllVMover(const PathContext& context);

}  // namespace tokenferry

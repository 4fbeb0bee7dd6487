// Files that rank 0 writes results to.
#pragma once

#include <memory>
#include <string>

#include "launch/cli/text_file.h"
#include "launch/ranks/bootstrap.h"

namespace tokenferry {

// Collective, before the work: rank 0's writer of the file that `flag` names; null elsewhere and for an empty path.
absl::StatusOr<std::unique_ptr<TextFileWriter>> OpenResultFile(RankContext& context, absl::string_view flag,
                                                               const std::string& path);

}  // namespace tokenferry

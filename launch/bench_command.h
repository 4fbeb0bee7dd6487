// What the commands that measure share.
#pragma once

#include <string>

#include "core/status.h"

namespace tokenferry {

// Writes the file that flag `flag` names; nothing when `path` is empty.
absl::Status WriteFile(const std::string& flag, const std::string& path, const std::string& text);

}  // namespace tokenferry

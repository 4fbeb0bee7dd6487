// What the commands that measure the exchange share.
#pragma once

#include <string>
#include <vector>

#include "comm/exchange.h"

namespace tokenferry {

// Names that the flags have checked.
std::vector<ExchangePath> PathsFromNames(const std::vector<std::string>& names);

// Writes a file named by a flag; nothing when `path` is empty.
absl::Status WriteFile(const std::string& flag, const std::string& path, const std::string& text);

}  // namespace tokenferry

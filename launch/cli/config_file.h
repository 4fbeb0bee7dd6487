// The file of --config, as keys and values; launch/cli/command_line.cc knows what they mean.
#pragma once

#include <string>
#include <vector>

#include "absl/types/span.h"
#include "core/status.h"

namespace tokenferry {

struct ConfigEntry {
  std::string place;    // "FILE:LINE", for messages
  std::string section;  // the subcommand's name, or empty for the top level
  std::string key;
  std::vector<std::string> values;  // one, or the items of a sequence; at least one
};

// Reads a YAML map whose values are scalars or sequences of scalars, or, for the keys in `sections`, such maps again.
// InvalidArgument with file and line for anything else, and for a key that stands twice.
absl::StatusOr<std::vector<ConfigEntry>> ReadConfigFile(const std::string& path,
                                                        absl::Span<const std::string> sections);

}  // namespace tokenferry

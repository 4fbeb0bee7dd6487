// The command line of `tokenferry`: SUBCOMMAND --flags, completed from the file of --config.
#pragma once

#include <memory>
#include <string>

#include "absl/types/span.h"
#include "launch/cli/shared_flags.h"
#include "launch/cli/subcommand.h"

namespace tokenferry {

struct CommandLine {
  std::string text;  // not empty: --help or --version was asked for; print this and do nothing else
  SharedFlags shared;
  std::unique_ptr<Subcommand> subcommand;  // has its flags' values; null if there is a text
};

// `args` without the program's name. InvalidArgument, in one line that names the flag (or the file and line of
// --config) and the value, with the word that was meant if one is near; Unimplemented for a planned subcommand.
//
// A flag that takes one value is refused when it is given twice. The file of --config is a YAML map from flag names
// (without the dashes) to values; the flags of one subcommand may stand in a map under its name ("bench engine" for
// that one). What stands at the top is for the subcommands that have such a flag, so that one file serves all; it must
// be a flag of some. The command line wins over the subcommand's map, and that over the top.
absl::StatusOr<CommandLine> ParseCommandLine(absl::Span<const SubcommandInfo> subcommands,
                                             absl::Span<const char* const> args);

}  // namespace tokenferry

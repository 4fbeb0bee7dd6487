// The table of subcommands. To add one: a file pair cmd_<name>.{h,cc} with its flags, checks and work, and a line in
// the table of commands.cc.
#pragma once

#include "absl/types/span.h"
#include "launch/cli/subcommand.h"

namespace tokenferry {

absl::Span<const SubcommandInfo> Subcommands();

}  // namespace tokenferry

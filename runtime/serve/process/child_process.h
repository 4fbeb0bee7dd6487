// A child of this process, which has threads and open sockets.
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "core/status.h"

namespace tokenferry {

// Starts `program` (looked for in PATH if it has no '/') in a session of its own, with `arguments`, the first of which
// is its name, and `environment` ("NAME=value"). It inherits stdout and stderr and no other file, and no signal is
// ignored or blocked. `in_child` runs in the child before the program begins, where only async-signal-safe functions
// may be called. A program that cannot be run ends with status kCannotRun. Unavailable when the system has no process
// left.
absl::StatusOr<pid_t> StartProcess(const std::string& program, std::vector<std::string> arguments,
                                   std::vector<std::string> environment, absl::FunctionRef<void()> in_child);

inline constexpr int kCannotRun = 127;

// The variables of this process, "NAME=value".
std::vector<std::string> Environment();

}  // namespace tokenferry

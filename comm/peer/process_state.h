// Whether a process of this host is alive, so that an error about a missing rank can say what became of it.
#pragma once

#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"

namespace tokenferry {

// Names a process for its whole life: the start time tells it from a later process with the same number.
struct ProcessId {
  int64_t pid = 0;
  uint64_t start_ticks = 0;  // since boot
};
ProcessId ThisProcess();

// Where ThisProcess().pid means something: equal strings, same host and same PID namespace.
std::string ProcessNamespace();

enum class ProcessState : uint8_t { kRunning, kStopped, kGone };
ProcessState GetProcessState(const ProcessId& process);  // a zombie is gone
const char* ToString(ProcessState state);                // "running", "stopped (SIGSTOP?)", "gone"

}  // namespace tokenferry

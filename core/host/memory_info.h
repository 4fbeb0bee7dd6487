// Memory of this process and of this machine, in bytes.
#pragma once

#include <cstdint>

#include "core/status.h"

namespace tokenferry {

struct ProcessMemory {
  int64_t resident_bytes = 0;
  int64_t peak_resident_bytes = 0;  // since the process began
};

struct MachineMemory {
  int64_t total_bytes = 0;
  int64_t available_bytes = 0;  // what can be had without swapping, as the kernel estimates it; no container limits
};

// From /proc. NotFound, naming the file, where there is none.
absl::StatusOr<ProcessMemory> ReadProcessMemory();
absl::StatusOr<MachineMemory> ReadMachineMemory();

}  // namespace tokenferry

// Memory of this process and of this machine, in bytes.
#pragma once

#include <cstddef>
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

// What the processes of this machine, and of this process's cgroups, may still take before the kernel kills one of
// them: the smaller of the machine's available memory and what the cgroups leave. Swap is left out: weights are read
// again in every step.
absl::StatusOr<int64_t> AvailableMemory();

// Asks the kernel for huge pages in that memory, which is about to be written and will be written whole: what was not
// written would take memory too. It may have none to give.
void PreferHugePages(void* data, size_t num_bytes);

}  // namespace tokenferry

#include "core/host/machine.h"

#include <sys/utsname.h>

#include <algorithm>
#include <fstream>

#include "absl/strings/str_format.h"
#include "absl/strings/string_view.h"
#include "core/host/affinity.h"
#include "core/host/isa.h"
#include "core/host/memory_info.h"

namespace tokenferry {
namespace {

std::string ProcessorName() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    if (line.rfind("model name", 0) == 0) return line.substr(line.find(':') + 2);
  }
  return "unknown processor";
}

// Not those of this thread or rank, which may be bound to a part of them.
size_t NumMachineCpus() {
  size_t num_cpus = 0;
  for (const auto& core : MachineCores()) num_cpus += core.size();
  return std::max(num_cpus, static_cast<size_t>(NumProcessCpus()));
}

}  // namespace

std::string MachineDescription() {
  utsname system{};
  uname(&system);
  const auto memory = ReadMachineMemory();
  return absl::StrFormat(
      "%s, %d CPUs, %s, %.1f GiB memory, %s %s", ProcessorName(), NumMachineCpus(), IsaName(BestIsa(SupportedIsas())),
      memory.ok() ? static_cast<double>(memory->total_bytes) / (1 << 30) : 0.0, system.sysname, system.release);
}

}  // namespace tokenferry

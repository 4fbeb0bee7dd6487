#include "core/host/memory_info.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <sstream>
#include <string>

#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "core/host/cgroup.h"

namespace tokenferry {
namespace {

absl::StatusOr<std::string> ReadAll(const char* path) {
  std::ifstream file(path);
  std::ostringstream text;
  if (!file || !(text << file.rdbuf())) return absl::NotFoundError(absl::StrCat(path, ": cannot be read"));
  return text.str();
}

// The bytes of a line "key:   123 kB".
absl::StatusOr<int64_t> Find(absl::string_view text, absl::string_view key, const char* path) {
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    if (!absl::ConsumePrefix(&line, key) || !absl::ConsumePrefix(&line, ":")) continue;
    int64_t kib = 0;
    if (absl::ConsumeSuffix(&line, " kB") && absl::SimpleAtoi(line, &kib) && kib >= 0 && kib <= INT64_MAX / 1024) {
      return kib * 1024;
    }
  }
  return absl::NotFoundError(absl::StrCat(path, ": no line \"", key, ": .. kB\""));
}

}  // namespace

absl::StatusOr<ProcessMemory> ReadProcessMemory() {
  constexpr char kPath[] = "/proc/self/status";
  TF_ASSIGN_OR_RETURN(const std::string text, ReadAll(kPath));
  ProcessMemory memory;
  TF_ASSIGN_OR_RETURN(memory.resident_bytes, Find(text, "VmRSS", kPath));
  TF_ASSIGN_OR_RETURN(memory.peak_resident_bytes, Find(text, "VmHWM", kPath));
  // The kernel updates the peak now and then only.
  memory.peak_resident_bytes = std::max(memory.peak_resident_bytes, memory.resident_bytes);
  return memory;
}

absl::StatusOr<MachineMemory> ReadMachineMemory() {
  constexpr char kPath[] = "/proc/meminfo";
  TF_ASSIGN_OR_RETURN(const std::string text, ReadAll(kPath));
  MachineMemory memory;
  TF_ASSIGN_OR_RETURN(memory.total_bytes, Find(text, "MemTotal", kPath));
  TF_ASSIGN_OR_RETURN(memory.available_bytes, Find(text, "MemAvailable", kPath));
  return memory;
}

absl::StatusOr<int64_t> AvailableMemory() {
  TF_ASSIGN_OR_RETURN(const MachineMemory machine, ReadMachineMemory());
  return std::min(machine.available_bytes, ReadCgroupLimits().available_bytes);
}

void PreferHugePages(void* data, size_t num_bytes) {
  const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE)), begin = reinterpret_cast<uintptr_t>(data);
  const uintptr_t first = (begin + page - 1) / page * page, end = (begin + num_bytes) / page * page;
  if (first < end) madvise(reinterpret_cast<void*>(first), end - first, MADV_HUGEPAGE);  // advice: errors are no matter
}

}  // namespace tokenferry

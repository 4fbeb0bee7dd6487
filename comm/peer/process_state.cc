#include "comm/peer/process_state.h"

#include <fcntl.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>

#include "absl/strings/str_cat.h"

namespace tokenferry {
namespace {

struct ProcStat {
  char state = 'X';
  uint64_t start_ticks = 0;
};

// /proc/PID/stat: "pid (name) state ppid ...", start time is field 22. False when there is no such process.
bool ReadProcStat(int64_t pid, ProcStat& out) {
  char path[64], text[1024];
  std::snprintf(path, sizeof(path), "/proc/%lld/stat", static_cast<long long>(pid));
  const int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return false;
  const ssize_t n = read(fd, text, sizeof(text) - 1);
  close(fd);
  if (n <= 0) return false;
  text[n] = '\0';
  const char* p = std::strrchr(text, ')');  // the name may hold anything
  if (p == nullptr || p[1] == '\0') return false;
  p += 2;
  unsigned long long start = 0;
  if (std::sscanf(p, "%c %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %llu", &out.state,
                  &start) != 2) {
    return false;
  }
  out.start_ticks = start;
  return true;
}

std::string ReadLink(const char* path) {
  char text[256];
  const ssize_t n = readlink(path, text, sizeof(text));
  return n > 0 ? std::string(text, n) : "";
}

}  // namespace

ProcessId ThisProcess() {
  ProcessId id{getpid(), 0};
  ProcStat stat;
  if (ReadProcStat(id.pid, stat)) id.start_ticks = stat.start_ticks;
  return id;
}

std::string ProcessNamespace() {
  char boot[64] = "";
  const int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
  if (fd >= 0) {
    const ssize_t n = read(fd, boot, sizeof(boot) - 1);
    boot[n > 0 ? n : 0] = '\0';
    close(fd);
  }
  char name[256] = "";
  gethostname(name, sizeof(name) - 1);
  return absl::StrCat(name, " ", boot, " ", ReadLink("/proc/self/ns/pid"));
}

ProcessState GetProcessState(const ProcessId& process) {
  ProcStat stat;
  if (!ReadProcStat(process.pid, stat) || stat.start_ticks != process.start_ticks) return ProcessState::kGone;
  if (stat.state == 'Z' || stat.state == 'X' || stat.state == 'x') return ProcessState::kGone;
  return stat.state == 'T' || stat.state == 't' ? ProcessState::kStopped : ProcessState::kRunning;
}

const char* ToString(ProcessState state) {
  switch (state) {
    case ProcessState::kStopped:
      return "stopped (SIGSTOP?)";
    case ProcessState::kGone:
      return "gone";
    case ProcessState::kRunning:
      break;
  }
  return "running";
}

}  // namespace tokenferry

#include "launch/ranks/stdout_watch.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <fstream>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace tokenferry {
namespace {

// What mpirun passes on at a time. Larger writes would be ten of its own before the next look.
constexpr size_t kMostBytes = 4096;

pid_t mpirun_pid = 0;  // set before there are threads
std::atomic<bool> is_read = true;

bool IsMpirun(pid_t pid) {
  std::string name;
  std::getline(std::ifstream(absl::StrCat("/proc/", pid, "/comm")), name);
  for (const char* prefix : {"mpirun", "mpiexec", "orterun", "prterun"}) {
    if (absl::StartsWith(name, prefix)) return true;
  }
  return false;
}

std::string StdoutOf(pid_t pid) { return absl::StrCat("/proc/", pid, "/fd/1"); }

bool IsPipe(const std::string& path) {
  struct stat info = {};
  return stat(path.c_str(), &info) == 0 && S_ISFIFO(info.st_mode);
}

// True where it cannot tell.
bool HasReader(const std::string& path) {
  if (!IsPipe(path)) return true;
  const int fd = open(path.c_str(), O_WRONLY | O_NONBLOCK | O_CLOEXEC);
  if (fd < 0) return errno != ENXIO;  // as a pipe with a name says it
  pollfd pipe = {fd, 0, 0};
  const bool has_reader = poll(&pipe, 1, 0) <= 0 || (pipe.revents & POLLERR) == 0;
  close(fd);
  return has_reader;
}

// For fopencookie: the bytes taken; less than `size` is an error of the stream.
ssize_t WriteIfRead(void* /*cookie*/, const char* text, size_t size) {
  size_t taken = 0;
  while (is_read && taken < size) {
    if (!HasReader(StdoutOf(mpirun_pid))) is_read = false;
    const ssize_t n = is_read ? write(STDOUT_FILENO, text + taken, std::min(size - taken, kMostBytes)) : 0;
    if (n < 0 && errno != EINTR) return static_cast<ssize_t>(taken);
    if (n > 0) taken += static_cast<size_t>(n);
  }
  return static_cast<ssize_t>(is_read ? taken : size);
}

}  // namespace

void WatchStdout() {
  const pid_t parent = getppid();
  if (!IsMpirun(parent) || !IsPipe(StdoutOf(parent))) return;
  FILE* const stream = fopencookie(nullptr, "w", {nullptr, WriteIfRead, nullptr, nullptr});
  if (stream == nullptr) return;
  mpirun_pid = parent;
  std::setvbuf(stream, nullptr, _IOFBF, kMostBytes);  // as of a pipe
  stdout = stream;  // glibc's is a variable; its streams are flushed at exit, whatever they write to
}

absl::Status CheckStdoutIsRead() {
  return is_read ? absl::OkStatus() : absl::CancelledError("nobody reads the results any more");
}

}  // namespace tokenferry

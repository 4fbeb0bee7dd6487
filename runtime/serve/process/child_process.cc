#include "runtime/serve/process/child_process.h"

#include <fcntl.h>
#include <linux/close_range.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstring>

#include "absl/strings/str_cat.h"

extern char** environ;

namespace tokenferry {
namespace {

std::vector<char*> Pointers(std::vector<std::string>& strings) {
  std::vector<char*> pointers;
  for (std::string& s : strings) pointers.push_back(s.data());
  pointers.push_back(nullptr);
  return pointers;
}

}  // namespace

absl::StatusOr<pid_t> StartProcess(const std::string& program, std::vector<std::string> arguments,
                                   std::vector<std::string> environment, absl::FunctionRef<void()> in_child) {
  // All that allocates comes before the fork: another thread may hold the allocator's lock.
  const std::vector<char*> argv = Pointers(arguments), envp = Pointers(environment);
  const pid_t pid = fork();
  if (pid < 0) {
    return absl::UnavailableError(absl::StrCat("cannot start ", program, ": fork: ", std::strerror(errno)));
  }
  if (pid > 0) return pid;
  setsid();
  // Kernels before 5.11 do not know it; every file of this program is close-on-exec by itself.
  syscall(SYS_close_range, 3U, ~0U, CLOSE_RANGE_CLOEXEC);
  const int null = open("/dev/null", O_RDONLY);
  if (null > 0) dup2(null, STDIN_FILENO);
  std::signal(SIGPIPE, SIG_DFL);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  in_child();
  execvpe(program.c_str(), argv.data(), envp.data());
  _exit(kCannotRun);
}

std::vector<std::string> Environment() {
  std::vector<std::string> variables;
  for (char** variable = environ; *variable != nullptr; ++variable) variables.emplace_back(*variable);
  return variables;
}

}  // namespace tokenferry

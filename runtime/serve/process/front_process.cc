#include "runtime/serve/process/front_process.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "runtime/serve/process/child_process.h"

namespace tokenferry {
namespace {

constexpr char kVariable[] = "TOKENFERRY_FRONT_SOCKET";

// What mpirun, srun and their relatives tell their ranks. A process that has none of them is no rank.
constexpr absl::string_view kLauncherPrefixes[] = {"OMPI_", "PMIX_", "PMI_",  "PRTE_", "ORTE_", "OPAL_",
                                                   "MPI_",  "MV2_",  "FLUX_", "PALS_", "SLURM_"};

std::vector<std::string> FrontEnvironment(int socket) {
  std::vector<std::string> kept;
  for (std::string& variable : Environment()) {
    bool launcher = false;
    for (const absl::string_view prefix : kLauncherPrefixes) launcher |= absl::StartsWith(variable, prefix);
    if (!launcher) kept.push_back(std::move(variable));
  }
  kept.push_back(absl::StrCat(kVariable, "=", socket));
  return kept;
}

absl::Status SystemError(absl::string_view what) {
  return absl::UnavailableError(absl::StrCat("cannot start the front of serve: ", what, ": ", std::strerror(errno)));
}

}  // namespace

OwnedFd& OwnedFd::operator=(OwnedFd&& other) noexcept {
  if (this != &other) {
    Reset();
    fd_ = other.Release();
  }
  return *this;
}

int OwnedFd::Release() {
  const int fd = fd_;
  fd_ = -1;
  return fd;
}

void OwnedFd::Reset() {
  if (fd_ >= 0) close(fd_);
  fd_ = -1;
}

absl::StatusOr<OwnedFd> StartFront(char* const* argv) {
  int ends[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) return SystemError("socketpair");
  OwnedFd mine(ends[0]), its(ends[1]);
  cpu_set_t all;
  std::memset(&all, 0xff, sizeof(all));
  std::vector<std::string> arguments;
  for (char* const* argument = argv; *argument != nullptr; ++argument) arguments.emplace_back(*argument);
  const auto in_child = [&] {
    sched_setaffinity(0, sizeof(all), &all);  // the kernel leaves out what the container does not allow
    fcntl(its.get(), F_SETFD, 0);
  };
  TF_RETURN_IF_ERROR(
      StartProcess("/proc/self/exe", std::move(arguments), FrontEnvironment(its.get()), in_child).status());
  return mine;
}

absl::StatusOr<std::optional<OwnedFd>> TakeFrontSocket() {
  const char* text = std::getenv(kVariable);
  if (text == nullptr) return std::nullopt;
  int fd = -1, type = 0;
  socklen_t size = sizeof(type);
  if (!absl::SimpleAtoi(text, &fd) || fd < 0 || getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) != 0 ||
      type != SOCK_STREAM) {
    return absl::InvalidArgumentError(
        absl::StrCat(kVariable, "=", text, " names no socket: it is set by tokenferry serve for itself, unset it"));
  }
  unsetenv(kVariable);
  fcntl(fd, F_SETFD, FD_CLOEXEC);
  return std::optional<OwnedFd>(OwnedFd(fd));
}

}  // namespace tokenferry

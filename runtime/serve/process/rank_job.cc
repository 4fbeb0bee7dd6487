#include "runtime/serve/process/rank_job.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <random>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "core/host/clock.h"
#include "core/log.h"
#include "runtime/serve/process/child_process.h"

namespace tokenferry {
namespace {

using Protocol = boost::asio::local::stream_protocol;
using ErrorCode = boost::system::error_code;

// mpirun leaves within a second when its ranks have ended.
constexpr absl::Duration kAfterTerminate = absl::Milliseconds(1500);
// Processes whose parents have just been killed become children of this one.
constexpr absl::Duration kAfterKill = absl::Milliseconds(20);
// Ranks that have lost mpirun end by themselves.
constexpr absl::Duration kOrphansEnd = absl::Milliseconds(500);
// How long the destructor waits for processes that it has killed.
constexpr absl::Duration kLastReap = absl::Seconds(2);

// A name in the kernel's own space, which no file has and nobody guesses.
std::string NewName() {
  std::random_device entropy;
  return absl::StrCat("tokenferry-", getpid(), "-", absl::Hex(entropy(), absl::kZeroPad8),
                      absl::Hex(entropy(), absl::kZeroPad8), absl::Hex(entropy(), absl::kZeroPad8));
}

bool IsThisUser(int socket) {
  ucred peer{};
  socklen_t size = sizeof(peer);
  return getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0 && peer.uid == geteuid();
}

// The children of a process, those that have ended and are not reaped included.
std::vector<pid_t> ChildrenOf(pid_t parent_pid) {
  std::vector<pid_t> children;
  DIR* const proc = opendir("/proc");
  if (proc == nullptr) return children;
  while (const dirent* entry = readdir(proc)) {
    pid_t pid = 0;
    if (!absl::SimpleAtoi(entry->d_name, &pid)) continue;
    std::FILE* const stat = std::fopen(absl::StrCat("/proc/", pid, "/stat").c_str(), "re");
    if (stat == nullptr) continue;
    char line[512];
    const size_t size = std::fread(line, 1, sizeof(line) - 1, stat);
    std::fclose(stat);
    line[size] = 0;
    // "pid (name) state parent": the name may have anything in it.
    const char* const name_end = std::strrchr(line, ')');
    int parent = 0;
    if (name_end != nullptr && std::sscanf(name_end, ") %*c %d", &parent) == 1 && parent == parent_pid) {
      children.push_back(pid);
    }
  }
  closedir(proc);
  return children;
}

std::string HowItEnded(const std::string& program, int status) {
  if (WIFSIGNALED(status)) return absl::StrCat(program, " was ended by signal ", WTERMSIG(status));
  if (WEXITSTATUS(status) == kCannotRun) return absl::StrCat(program, " cannot be run: is it in PATH?");
  return absl::StrCat(program, " has ended with status ", WEXITSTATUS(status));
}

}  // namespace

RankJob::RankJob(boost::asio::io_context& io, std::vector<std::string> command, Handlers handlers)
    : acceptor_(io), child_signal_(io), timer_(io), command_(std::move(command)), handlers_(std::move(handlers)) {
  prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
  child_signal_.add(SIGCHLD);
  AwaitChildren();
}

RankJob::~RankJob() {
  const Deadline deadline = Deadline::After(kLastReap);
  std::vector<pid_t> left = ChildrenOf(getpid());
  while (!left.empty() && !deadline.Expired()) {
    for (const pid_t child : left) kill(child, SIGKILL);
    absl::SleepFor(kAfterKill);
    while (waitpid(-1, nullptr, WNOHANG) > 0) {
    }
    left = ChildrenOf(getpid());  // orphans of those that have just ended, too
  }
  if (!left.empty()) {
    LogError(absl::StrCat("serve: processes ", absl::StrJoin(left, ", "), " have not ended ",
                          absl::FormatDuration(kLastReap),
                          " after SIGKILL (the kernel keeps them, as for a device or a file system that does not "
                          "answer) and are left behind"));
  }
  RemoveFolder();
}

absl::Status RankJob::Start() {
  const auto failed = [](absl::string_view what) {
    return absl::UnavailableError(absl::StrCat("cannot start the ranks: ", what, ": ", std::strerror(errno)));
  };
  const char* const base = std::getenv("TMPDIR");
  folder_ = absl::StrCat(base != nullptr && *base != 0 ? base : "/tmp", "/tokenferry-XXXXXX");
  if (mkdtemp(folder_.data()) == nullptr) {
    const std::string folder = std::exchange(folder_, {});
    return failed(folder);
  }
  const std::string name = NewName();
  ErrorCode error;
  acceptor_.open(Protocol(), error);
  if (!error) fcntl(acceptor_.native_handle(), F_SETFD, FD_CLOEXEC);
  if (!error) acceptor_.bind(Protocol::endpoint(std::string(1, '\0') + name), error);
  if (!error) acceptor_.listen(1, error);
  if (error) return absl::UnavailableError(absl::StrCat("cannot await the ranks: ", error.message()));
  std::vector<std::string> environment;
  for (std::string& variable : Environment()) {
    if (!absl::StartsWith(variable, "TMPDIR=")) environment.push_back(std::move(variable));
  }
  environment.push_back(absl::StrCat(kFrontNameVariable, "=", name));
  environment.push_back(absl::StrCat("TMPDIR=", folder_));
  // No death signal: rank 0 sees the end of the front, and mpirun crashes when a signal meets the end of a rank.
  TF_ASSIGN_OR_RETURN(pid_, StartProcess(command_[0], command_, std::move(environment), [] {}));
  main_ended_ = false;
  next_ = Next::kNothing;
  Accept();
  return absl::OkStatus();
}

void RankJob::Accept() {
  acceptor_.async_accept([this](ErrorCode error, Protocol::socket socket) {
    if (error || !acceptor_.is_open()) return;
    OwnedFd fd(socket.release());
    fcntl(fd.get(), F_SETFD, FD_CLOEXEC);
    if (!IsThisUser(fd.get())) return Accept();
    ErrorCode ignored;
    acceptor_.close(ignored);
    handlers_.on_connected(std::move(fd));
  });
}

void RankJob::AwaitChildren() {
  child_signal_.async_wait([this](ErrorCode error, int) {
    if (error) return;
    Reap();
    AwaitChildren();
  });
}

void RankJob::Reap() {
  int status = 0;
  pid_t pid = 0;
  while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
    if (pid != pid_) continue;
    main_ended_ = true;
    how_ = HowItEnded(command_[0], status);
  }
  if (!running() || !main_ended_) return;
  if (pid == 0) {  // its ranks are left
    if (next_ == Next::kNothing) Stop(kOrphansEnd);
    return;
  }
  timer_.cancel();
  next_ = Next::kNothing;
  ErrorCode ignored;
  acceptor_.close(ignored);
  RemoveFolder();
  pid_ = -1;
  handlers_.on_end(how_);
}

void RankJob::Stop(absl::Duration patience) {
  if (!running()) return;
  const auto due = std::chrono::steady_clock::now() + absl::ToChronoMilliseconds(patience);
  if (next_ == Next::kKill || (next_ == Next::kTerminate && timer_.expiry() <= due)) return;
  next_ = Next::kTerminate;
  ArmTimer(patience);
}

void RankJob::ArmTimer(absl::Duration after) {
  timer_.expires_after(absl::ToChronoMilliseconds(after));
  timer_.async_wait([this](ErrorCode error) {
    if (!error && timer_.expiry() <= std::chrono::steady_clock::now()) OnTimer();
  });
}

void RankJob::OnTimer() {
  if (!running()) return;
  if (next_ == Next::kTerminate && !main_ended_) {
    // mpirun without ranks leaves at once and tidily; two signals in a row, as while it aborts the job, make it crash.
    const std::vector<pid_t> ranks = ChildrenOf(pid_);
    for (const pid_t rank : ranks) kill(rank, SIGKILL);
    if (ranks.empty()) kill(pid_, SIGTERM);
    next_ = Next::kKill;
    return ArmTimer(kAfterTerminate);
  }
  if (next_ == Next::kNothing) return;
  next_ = Next::kKill;
  for (const pid_t child : ChildrenOf(getpid())) kill(child, SIGKILL);
  ArmTimer(kAfterKill);
}

void RankJob::RemoveFolder() {
  if (folder_.empty()) return;
  std::error_code error;
  std::filesystem::remove_all(folder_, error);
  if (error) LogWarning(absl::StrCat("serve: ", folder_, " cannot be removed: ", error.message()));
  folder_.clear();
}

absl::StatusOr<std::optional<OwnedFd>> ConnectToFront() {
  const char* const name = std::getenv(kFrontNameVariable);
  if (name == nullptr) return std::nullopt;
  OwnedFd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  const size_t size = std::min(std::strlen(name), sizeof(address.sun_path) - 1);
  std::memcpy(address.sun_path + 1, name, size);
  const auto length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + size);
  if (fd.get() < 0 || connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), length) != 0 ||
      !IsThisUser(fd.get())) {
    return absl::UnavailableError(
        absl::StrCat("rank 0 cannot reach the front of `tokenferry launch`, which has ended or runs on another host (",
                     std::strerror(errno), "): rank 0 must be on the host of launch, the first one of --hostfile"));
  }
  unsetenv(kFrontNameVariable);
  return std::optional<OwnedFd>(std::move(fd));
}

}  // namespace tokenferry

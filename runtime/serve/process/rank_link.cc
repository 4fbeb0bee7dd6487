#include "runtime/serve/process/rank_link.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/host/clock.h"

namespace tokenferry {
namespace {

// For the signal handler: whether somebody has asked to drain, and whom to wake.
std::atomic<bool> drain_requested{false};
std::atomic<int> drain_wake_fd{-1};

constexpr size_t kReadBytes = 64 << 10;

}  // namespace

RankLink::RankLink(OwnedFd socket) : socket_(std::move(socket)), wake_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
  drain_wake_fd = wake_.get();
  // Signals are for the rank's own thread.
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  thread_ = std::thread([this] { Run(); });
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

RankLink::~RankLink() {
  drain_wake_fd = -1;
  {
    const std::lock_guard lock(mutex_);
    closing_ = true;
  }
  Wake();
  thread_.join();
}

void RankLink::RequestDrain() {
  drain_requested = true;
  const uint64_t one = 1;
  const int fd = drain_wake_fd;
  if (fd >= 0) [[maybe_unused]]
    const ssize_t written = write(fd, &one, sizeof(one));
}

void RankLink::Wake() const {
  const uint64_t one = 1;
  [[maybe_unused]] const ssize_t written = write(wake_.get(), &one, sizeof(one));  // full: it is awake anyway
}

absl::Status RankLink::AwaitHello(absl::Duration timeout) {
  const Deadline deadline = Deadline::After(timeout);
  std::unique_lock lock(mutex_);
  while (received_.empty() && ended_.ok()) {
    if (changed_.wait_for(lock, absl::ToChronoMilliseconds(deadline.Remaining())) == std::cv_status::timeout &&
        deadline.Expired()) {
      return absl::UnavailableError(
          absl::StrCat("the front of serve has not begun to listen within ", absl::FormatDuration(timeout)));
    }
  }
  if (received_.empty()) return ended_;
  const auto* hello = std::get_if<Hello>(&received_.front());
  if (hello == nullptr) return absl::DataLossError("the front of serve does not begin with its version");
  TF_RETURN_IF_ERROR(CheckVersion(*hello));
  received_.erase(received_.begin());
  return absl::OkStatus();
}

void RankLink::Send(const Message& message) {
  const std::string frame = EncodeFrame(message);
  {
    const std::lock_guard lock(mutex_);
    if (!ended_.ok() || closing_) return;
    if (unsent_.size() + frame.size() > kMaxUnsentBytes) {
      return Finish(absl::UnavailableError(
          absl::StrCat("the front of serve has left ", unsent_.size(), " bytes unread: it hangs or was stopped")));
    }
    unsent_ += frame;
  }
  Wake();
}

std::vector<Message> RankLink::Take(absl::Duration patience) {
  std::unique_lock lock(mutex_);
  changed_.wait_for(lock, absl::ToChronoMilliseconds(patience), [this] { return !received_.empty() || !ended_.ok(); });
  return std::exchange(received_, {});
}

absl::Status RankLink::ended() const {
  const std::lock_guard lock(mutex_);
  return ended_;
}

void RankLink::End(const std::string& reason, absl::Duration timeout) {
  Send(Goodbye{reason});
  std::unique_lock lock(mutex_);
  changed_.wait_for(lock, absl::ToChronoMilliseconds(timeout), [this] { return unsent_.empty() || !ended_.ok(); });
  closing_ = true;
  lock.unlock();
  Wake();
}

void RankLink::Finish(absl::Status why) {
  if (ended_.ok()) ended_ = std::move(why);
  unsent_.clear();
  changed_.notify_all();
}

void RankLink::Run() {
  while (true) {
    pollfd watched[2] = {{socket_.get(), POLLIN, 0}, {wake_.get(), POLLIN, 0}};
    bool drain = false;
    {
      const std::lock_guard lock(mutex_);
      if (closing_) break;
      drain = drain_requested && !drain_sent_;
      drain_sent_ |= drain;
      if (!ended_.ok()) watched[0].fd = -1;  // only to be closed
      if (!unsent_.empty()) watched[0].events |= POLLOUT;
    }
    if (drain) {
      Send(Drain{});
      continue;
    }
    poll(watched, 2, -1);
    if (watched[1].revents != 0) {
      uint64_t count = 0;
      [[maybe_unused]] const ssize_t got = read(wake_.get(), &count, sizeof(count));
    }
    if ((watched[0].revents & (POLLIN | POLLHUP | POLLERR)) != 0) Read();
    if ((watched[0].revents & POLLOUT) != 0) Write();
  }
  socket_.Reset();
}

void RankLink::Read() {
  char chunk[kReadBytes];
  const ssize_t size = recv(socket_.get(), chunk, sizeof(chunk), MSG_DONTWAIT);
  if (size < 0 && (errno == EAGAIN || errno == EINTR)) return;
  const std::lock_guard lock(mutex_);
  if (size <= 0) return Finish(absl::UnavailableError("the front of serve has ended without a word"));
  reader_.Append(absl::string_view(chunk, static_cast<size_t>(size)));
  while (ended_.ok()) {
    absl::StatusOr<std::optional<Message>> message = reader_.Take();
    if (!message.ok()) return Finish(Annotate(message.status(), "from the front of serve"));
    if (!*message) break;
    if (const auto* goodbye = std::get_if<Goodbye>(&**message)) {
      return Finish(goodbye->reason.empty() ? absl::CancelledError("drained")
                                            : absl::UnavailableError(goodbye->reason));
    }
    received_.push_back(**std::move(message));
  }
  changed_.notify_all();
}

void RankLink::Write() {
  const std::lock_guard lock(mutex_);
  const ssize_t size = send(socket_.get(), unsent_.data(), unsent_.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
  // A front that has gone is told by Read, which has its last words.
  if (size <= 0) return;
  unsent_.erase(0, static_cast<size_t>(size));
  if (unsent_.empty()) changed_.notify_all();
}

}  // namespace tokenferry

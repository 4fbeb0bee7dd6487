#include "comm/wait/last_words.h"

#include <semaphore.h>

#include <atomic>
#include <thread>

#include "absl/synchronization/notification.h"
#include "comm/wait/wait.h"
#include "core/host/wait.h"
#include "core/log.h"

namespace tokenferry {
namespace {

// Lives as long as the process, so that a signal handler can always post it.
struct StopSignal {
  sem_t semaphore;
  std::atomic<bool> is_watched{false};
  StopSignal() { sem_init(&semaphore, /*pshared=*/0, 0); }
};

StopSignal& TheStopSignal() {
  static StopSignal* signal = new StopSignal();
  return *signal;
}

std::atomic<StopSignal*> watched{nullptr};
static_assert(std::atomic<StopSignal*>::is_always_lock_free, "WakeLastWords runs in signal handlers");

}  // namespace

class LastWords::Watcher {
 public:
  explicit Watcher(std::function<std::string()> describe)
      : describe_(std::move(describe)), thread_([this] { Run(); }) {}
  ~Watcher() {
    done_.Notify();
    sem_post(&TheStopSignal().semaphore);
    thread_.join();
  }

 private:
  void Run() {
    sem_t& semaphore = TheStopSignal().semaphore;
    while (sem_wait(&semaphore) != 0) {  // interrupted by a signal
    }
    // Not Notification's own timeout: that one is a point of the wall clock.
    const auto done = [this] { return done_.HasBeenNotified(); };
    if (WaitUntil(done, Deadline::After(2 * kStopGrace)) == WaitResult::kReady) return;
    const std::string text = describe_();
    if (!text.empty()) LogError("asked to stop (did another rank end?) while MPI does not return: " + text);
  }

  const std::function<std::string()> describe_;
  absl::Notification done_;
  std::thread thread_;
};

LastWords::LastWords(std::function<std::string()> describe) : watcher_(nullptr) {
  StopSignal& signal = TheStopSignal();
  if (signal.is_watched.exchange(true)) return;
  watcher_ = new Watcher(std::move(describe));
  watched.store(&signal);
}

LastWords::~LastWords() {
  if (watcher_ == nullptr) return;
  watched.store(nullptr);
  delete watcher_;
  while (sem_trywait(&TheStopSignal().semaphore) == 0) {  // what nobody has taken is not for the next one
  }
  TheStopSignal().is_watched.store(false);
}

void WakeLastWords() {
  if (StopSignal* signal = watched.load()) sem_post(&signal->semaphore);
}

}  // namespace tokenferry

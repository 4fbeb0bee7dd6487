#include "tests/runtime/engine/command_queue.h"

#include <utility>

namespace tokenferry {

void CommandQueue::Push(Command command) {
  {
    const std::lock_guard lock(mutex_);
    commands_.push_back(std::move(command));
  }
  pushed_.notify_one();
}

std::vector<Command> CommandQueue::Take(absl::Duration wait) {
  std::unique_lock lock(mutex_);
  // wait_for is by the steady clock.
  if (commands_.empty() && wait > absl::ZeroDuration()) {
    pushed_.wait_for(lock, absl::ToChronoNanoseconds(wait), [this] { return !commands_.empty(); });
  }
  return std::exchange(commands_, {});
}

}  // namespace tokenferry

// A source of commands for tests of the serving loop.
#pragma once

#include <condition_variable>
#include <mutex>
#include <vector>

#include "absl/time/time.h"
#include "runtime/engine/serving_loop.h"

namespace tokenferry {

// Any threads push; one takes.
class CommandQueue {
 public:
  void Push(Command command);
  // Everything pushed so far, in order. Waits until there is something, `wait` at most.
  std::vector<Command> Take(absl::Duration wait);

 private:
  std::mutex mutex_;
  std::condition_variable pushed_;
  std::vector<Command> commands_;
};

}  // namespace tokenferry

// What another thread asks of a running engine. Nothing else of the engine may be touched while it runs: scheduler and
// transport belong to the engine's thread.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <variant>
#include <vector>

#include "absl/time/time.h"
#include "runtime/engine/request.h"

namespace tokenferry {

struct AddCommand {
  uint64_t id = 0;  // the caller's; not of a request that runs
  Request request;
};
struct CancelCommand {
  uint64_t id = 0;  // one that is not there any more is passed over
};
struct DrainCommand {};  // no requests from now on; the loop ends when the last one has
using Command = std::variant<AddCommand, CancelCommand, DrainCommand>;

// Any threads push; one takes. A CommandSource of the serving loop.
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

// Rank 0's end of the socket to the front: a thread that reads and writes, so that steps never wait for the front.
#pragma once

#include <condition_variable>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "absl/time/time.h"
#include "runtime/serve/process/front_process.h"
#include "runtime/serve/protocol/codec.h"

namespace tokenferry {

// Any thread may call any method.
class RankLink {
 public:
  explicit RankLink(OwnedFd socket);
  // Says nothing; see End.
  ~RankLink();
  RankLink(const RankLink&) = delete;
  RankLink& operator=(const RankLink&) = delete;

  // Waits until the front has said Hello: it listens. FailedPrecondition for another version; Unavailable with the
  // front's reason when it has ended instead, or when it says nothing for `timeout`.
  absl::Status AwaitHello(absl::Duration timeout);

  // Queues a message and returns. What is queued after the front has ended is dropped.
  void Send(const Message& message);

  // All messages that have come since the last call, in order; waits up to `patience` for the first.
  std::vector<Message> Take(absl::Duration patience);

  // Why there will be no more messages: the front's Goodbye, its end without one, a message that is none, or more than
  // kMaxUnsentBytes that it does not read. OK as long as there may be more. Cancelled: the front has said Goodbye after
  // it was drained, which is no error.
  absl::Status ended() const;

  // Sends Goodbye, waits up to `timeout` until it is on its way, and closes the socket.
  void End(const std::string& reason, absl::Duration timeout);

  // Asks the front to drain, as SIGTERM to it does. May be called from a signal handler; concerns the process's only
  // RankLink, or the one that comes.
  static void RequestDrain();

  static constexpr size_t kMaxUnsentBytes = size_t{256} << 20;

 private:
  void Run();
  void Read();
  void Write();
  void Finish(absl::Status why);  // with the lock held
  void Wake() const;

  OwnedFd socket_, wake_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<Message> received_;
  std::string unsent_;
  FrameReader reader_;
  absl::Status ended_;
  bool closing_ = false, drain_sent_ = false;
  std::thread thread_;
};

}  // namespace tokenferry

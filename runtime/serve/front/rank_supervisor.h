// The ranks as the front sees them: whoever has started them, and however often they are started again.
#pragma once

#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "core/host/clock.h"
#include "runtime/serve/front/engine_client.h"
#include "runtime/serve/process/rank_job.h"

namespace tokenferry {

enum class RestartPolicy : uint8_t { kNever, kOnFailure };

// How the front starts the ranks.
struct RankJobOptions {
  std::vector<std::string> command;  // mpirun or the program itself, and arguments
  RestartPolicy restart = RestartPolicy::kNever;
  // Longest time without a sign of ready ranks, which give one every second; they are ended then. Longer than they wait
  // for each other, so that they can say who is late.
  absl::Duration most_silence;
  // The same of ranks that are not ready yet: before rank 0 connects, and between its messages while weights are read.
  // Longer than they wait for each other and work by themselves between two messages.
  absl::Duration most_silence_at_start;
};

// Used on the io_context's thread, which calls the handlers.
class RankSupervisor {
 public:
  struct Handlers {
    std::function<void(Message)> on_message;  // never Hello nor Goodbye
    // The ranks that had been Ready have ended, why in one line, and others will be: another Ready comes.
    std::function<void(const std::string&)> on_lost;
    // Once: the ranks have ended, why in one line, and there will be no others.
    std::function<void(const std::string&)> on_end;
  };
  // Rank 0 has started this process; `socket` leads to it.
  RankSupervisor(boost::asio::io_context& io, OwnedFd socket, Handlers handlers);
  // This process starts them.
  RankSupervisor(boost::asio::io_context& io, RankJobOptions options, Handlers handlers);

  absl::Status Start();

  // To the ranks that are there; dropped where there are none.
  void Send(const Message& message);
  // Nothing is wanted of the ranks any more, `reason` says why; empty: they are drained. No handler is called after it,
  // and those that this process has started are ended, in a few seconds if need be.
  void SayGoodbye(const std::string& reason);
  // After SayGoodbye or on_end: Goodbye is on its way, and no process is left of those that this one has started.
  bool idle() const;

  // Whether this process starts the ranks.
  bool own() const { return job_ != nullptr; }

 private:
  EngineClient::Handlers ClientHandlers();
  void OnConnected(OwnedFd socket);
  void OnMessage(Message message);
  // The connection has ended; the processes have.
  void OnDisconnected(const std::string& reason);
  void OnJobEnded(const std::string& how);
  // Both have.
  void StartAgain();
  void Watch();
  void End(const std::string& reason);

  boost::asio::io_context& io_;
  const RankJobOptions options_;
  const Handlers handlers_;
  std::shared_ptr<EngineClient> client_;  // null: no rank 0 is connected
  std::unique_ptr<RankJob> job_;          // null: somebody else has started the ranks
  boost::asio::steady_timer restart_timer_, watch_timer_;
  // kLost: the connection has ended, and the job has still to.
  enum class State : uint8_t { kStarting, kReady, kLost, kEnded } state_ = State::kStarting;
  Stopwatch since_ready_;
  absl::Duration silence_;  // counted by the watch, so that a front that was stopped itself does not blame the ranks
  int num_failures_ = 0;    // in a row: jobs that were not ready, or not for long
  int64_t num_restarts_ = 0;
};

}  // namespace tokenferry

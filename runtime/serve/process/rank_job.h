// The ranks as processes that the front has started: mpirun and what it starts, or the program alone with ranks as
// threads.
#pragma once

#include <sys/types.h>

#include <boost/asio/io_context.hpp>
#include <boost/asio/local/stream_protocol.hpp>
#include <boost/asio/signal_set.hpp>
#include <boost/asio/steady_timer.hpp>
#include <functional>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "runtime/serve/process/front_process.h"

namespace tokenferry {

// Used on the io_context's thread, which calls the handlers. There may be one of it in a process, which may have no
// other children: orphans of the job become this process's children, and are ended with it.
class RankJob {
 public:
  struct Handlers {
    // Rank 0 has connected: the socket, a stream.
    std::function<void(OwnedFd)> on_connected;
    // No process of the job is left on this host; how it has ended, in words.
    std::function<void(std::string)> on_end;
  };
  // `command`: the program and its arguments.
  RankJob(boost::asio::io_context& io, std::vector<std::string> command, Handlers handlers);
  // Ends what still runs, at once; after two seconds it leaves behind, with a line that names them, processes that the
  // kernel does not let end.
  ~RankJob();

  // Starts it; not while it runs. Where rank 0 is to connect is in its environment: a name that no file has, and that
  // is another one every time. Only a process of this user is let in. The job has a folder for its temporary files,
  // which is removed when it has ended. Unavailable when the system refuses.
  absl::Status Start();

  // Ends it: after `patience` mpirun's ranks, or SIGTERM to the program without mpirun; soon after that SIGKILL to all
  // that is left. The earlier of two calls' ends counts.
  void Stop(absl::Duration patience);

  bool running() const { return pid_ > 0; }

 private:
  void Accept();
  void AwaitChildren();
  // Notes which children have ended; calls on_end after the last one.
  void Reap();
  void OnTimer();
  void ArmTimer(absl::Duration after);
  void RemoveFolder();

  boost::asio::local::stream_protocol::acceptor acceptor_;
  boost::asio::signal_set child_signal_;
  boost::asio::steady_timer timer_;
  const std::vector<std::string> command_;
  const Handlers handlers_;
  std::string folder_;
  pid_t pid_ = -1;           // of the command, until all have ended
  bool main_ended_ = false;  // the command itself; others may be left
  std::string how_;
  enum class Next : uint8_t { kNothing, kTerminate, kKill } next_ = Next::kNothing;  // what the timer is set for
};

// The variable of the job's environment that names where rank 0 connects.
inline constexpr char kFrontNameVariable[] = "TOKENFERRY_FRONT_NAME";

// In rank 0's process: the socket to the front that has started this job, or none if none has.
absl::StatusOr<std::optional<OwnedFd>> ConnectToFront();

}  // namespace tokenferry

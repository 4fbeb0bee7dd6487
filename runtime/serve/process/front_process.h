// The front's process, as rank 0's process starts it: the same program again, with one end of a socket pair. A pair has
// no name, so nobody else can connect to it and no file can be left behind.
#pragma once

#include <optional>

#include "core/status.h"

namespace tokenferry {

// A file descriptor that is closed with its owner. -1: none.
class OwnedFd {
 public:
  explicit OwnedFd(int fd = -1) : fd_(fd) {}
  ~OwnedFd() { Reset(); }
  OwnedFd(OwnedFd&& other) noexcept : fd_(other.Release()) {}
  OwnedFd& operator=(OwnedFd&& other) noexcept;
  int get() const { return fd_; }
  int Release();
  void Reset();

 private:
  int fd_;
};

// Starts this program again with the same arguments (null-terminated). Returns rank 0's end of the socket: a stream,
// close-on-exec. The new process has a session of its own, so that a terminal's Ctrl-C reaches it only through the end
// of the ranks; no variable of an MPI launcher, so that it is no rank; and all CPUs that the host and its container
// allow, not only those of rank 0. Before MPI_Init and before any thread. Unavailable when the system has no process or
// socket left.
absl::StatusOr<OwnedFd> StartFront(char* const* argv);

// In the new process: the socket that it was given, once. Elsewhere none. InvalidArgument when the variable that names
// it was set by somebody else.
absl::StatusOr<std::optional<OwnedFd>> TakeFrontSocket();

}  // namespace tokenferry

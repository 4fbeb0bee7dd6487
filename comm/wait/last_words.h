// What a rank still says when it is asked to stop while its thread hangs inside the message library.
//
// Open MPI ends a process from within MPI_Testsome when a TCP peer goes (its ob1 layer calls an abort that does not
// return), so the waiting thread never sees RequestStop. A second thread sleeps until RequestStop, gives the first one
// the time to say it itself, and then logs what it is waiting for.
#pragma once

#include <functional>
#include <string>

namespace tokenferry {

class LastWords {
 public:
  // `describe` is called on another thread, at most once; an empty text means that nothing is waited for. One at a time
  // per process; a second one stays silent.
  explicit LastWords(std::function<std::string()> describe);
  ~LastWords();
  LastWords(const LastWords&) = delete;
  LastWords& operator=(const LastWords&) = delete;

 private:
  class Watcher;
  Watcher* watcher_;
};

// Wakes it. For RequestStop: may be called from a signal handler.
void WakeLastWords();

}  // namespace tokenferry

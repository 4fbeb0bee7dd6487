// What every wait for other ranks shares: giving way while waiting, the stop flag, the limit, and the words of the
// error.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "comm/wait/call_site.h"
#include "core/host/clock.h"
#include "core/ids.h"

namespace tokenferry {

// Gives way while polling: spins for about a microsecond, then yields, and after a while sleeps between polls, so that
// many ranks on few cores do not take each other's time. With kPatient it sleeps kPatientNap from the first poll on.
class Backoff {
 public:
  explicit Backoff(WaitPace pace = WaitPace::kPrompt) : pace_(pace) {}
  void Pause();
  void Reset() { num_pauses_ = 0; }

 private:
  WaitPace pace_;
  int num_pauses_ = 0;
};
inline constexpr absl::Duration kPatientNap = absl::Milliseconds(3);

// Asks every waiting transfer of this process to give up: it returns Cancelled, naming the call site and whom it waits
// for, unless it completes within kStopGrace. May be called from a signal handler. mpirun sends SIGTERM to the
// survivors when a rank dies and SIGKILL a second later: this is how they still say whom they were waiting for.
void RequestStop();
bool StopRequested();
void ClearStopRequest();  // for tests
inline constexpr absl::Duration kStopGrace = absl::Milliseconds(200);

// A rank that a transfer still waits for.
struct PendingRank {
  RankId rank;
  std::string host;
  std::string unit = "bytes";  // of the next three: "rows of 64 bytes", "headers", ..
  int64_t expected = 0;        // of what it sends us
  int64_t arrived = 0;
  int64_t untaken = 0;        // of what we send it: not taken yet
  std::string process_state;  // "running", "stopped (SIGSTOP?)", "gone"; empty when unknown
  std::string last_sign;      // "last heard of in transfer 16, 1.2s ago"; empty when unknown
};
// Sizes in bytes become rows when row_bytes is not 0.
struct PendingBytes {
  int64_t expected = 0, arrived = 0, untaken = 0;
  int64_t row_bytes = 0;
};
PendingRank DescribePending(RankId rank, std::string host, const PendingBytes& bytes);
// What has last come from a rank: transfer `sequence`, at `at_ns` of SteadyNanos; sequence -1 when nothing has.
std::string DescribeLastSign(int64_t sequence, int64_t at_ns);

// "layer 3, combine rows, transfer 12: rank 0 waits for rank 2 on host a (0 of 16 rows of 256 bytes
// arrived, its process is gone, last heard of in transfer 11, 1.2s ago)"
std::string DescribeWait(const CallSite& site, int64_t sequence, RankId waiting,
                         const std::vector<PendingRank>& pending);

// Decides while something waits whether it has to give up. One per wait. Time in which this process did not run
// (it was stopped, or the machine slept) does not count: it must not blame the others for it.
class WaitLimit {
 public:
  explicit WaitLimit(absl::Duration timeout) : deadline_(Deadline::After(timeout)) {}
  // kOk: go on waiting.
  absl::StatusCode Check();
  double seconds() const { return since_start_.seconds(); }

 private:
  const Stopwatch since_start_;
  Deadline deadline_;
  int64_t last_check_ns_ = SteadyNanos();
  std::optional<Deadline> stop_grace_;  // from the first check that saw the request
};

// The error of a transfer that ended with `code` of WaitLimit::Check.
absl::Status WaitError(absl::StatusCode code, absl::Duration timeout, const std::string& description);

}  // namespace tokenferry

#include "comm/wait/wait.h"

#include <sched.h>
#include <time.h>

#include <algorithm>
#include <atomic>

#include "comm/wait/last_words.h"
#include "core/host/wait.h"

namespace tokenferry {
namespace {

std::atomic<bool> stop_requested{false};
static_assert(std::atomic<bool>::is_always_lock_free, "RequestStop runs in signal handlers");

constexpr int kSpins = 64;     // polls in a row: about a microsecond
constexpr int kYields = 2000;  // then polls with a yield between: a millisecond or more
constexpr int kSleepNanos = 50'000, kLongestSleepNanos = 500'000;
constexpr absl::Duration kNotRunning = absl::Milliseconds(500);  // between two polls

}  // namespace

void Backoff::Pause() {
  if (pace_ == WaitPace::kPatient) {
    const timespec nap = absl::ToTimespec(kPatientNap);
    nanosleep(&nap, nullptr);
    return;
  }
  if (num_pauses_ < kSpins) {
    internal::CpuPause();
  } else if (num_pauses_ < kSpins + kYields) {
    sched_yield();
  } else {
    // Longer as the wait grows: a poll costs system calls, and whoever is waited for may need this core.
    const int num_naps = ++num_pauses_ - kSpins - kYields;
    const timespec nap{0, std::min(kSleepNanos + num_naps * (kSleepNanos / 16), kLongestSleepNanos)};
    nanosleep(&nap, nullptr);
    return;
  }
  ++num_pauses_;
}

void RequestStop() {
  stop_requested.store(true, std::memory_order_relaxed);
  WakeLastWords();
}
bool StopRequested() { return stop_requested.load(std::memory_order_relaxed); }
void ClearStopRequest() { stop_requested.store(false, std::memory_order_relaxed); }

absl::StatusCode WaitLimit::Check() {
  const int64_t now_ns = SteadyNanos();
  const absl::Duration pause = absl::Nanoseconds(now_ns - last_check_ns_);
  last_check_ns_ = now_ns;
  if (pause > kNotRunning) deadline_.Extend(pause);
  if (deadline_.ExpiredAt(now_ns)) return absl::StatusCode::kDeadlineExceeded;
  if (!StopRequested()) return absl::StatusCode::kOk;
  if (!stop_grace_) stop_grace_ = Deadline::After(kStopGrace);
  return stop_grace_->Expired() ? absl::StatusCode::kCancelled : absl::StatusCode::kOk;
}

PendingRank DescribePending(RankId rank, std::string host, const PendingBytes& bytes) {
  PendingRank p{.rank = rank, .host = std::move(host)};
  if (bytes.row_bytes > 0) p.unit = absl::StrCat("rows of ", bytes.row_bytes, " bytes");
  const int64_t unit_bytes = bytes.row_bytes > 0 ? bytes.row_bytes : 1;
  p.expected = bytes.expected / unit_bytes;
  p.arrived = bytes.arrived / unit_bytes;
  p.untaken = bytes.untaken / unit_bytes;
  return p;
}

std::string DescribeLastSign(int64_t sequence, int64_t at_ns) {
  if (sequence < 0) return "nothing heard of it yet";
  const absl::Duration ago = absl::Trunc(absl::Nanoseconds(SteadyNanos() - at_ns), absl::Milliseconds(1));
  return absl::StrCat("last heard of in transfer ", sequence, ", ", absl::FormatDuration(ago), " ago");
}

std::string DescribeWait(const CallSite& site, int64_t sequence, RankId waiting,
                         const std::vector<PendingRank>& pending) {
  std::string out = absl::StrCat(ToString(site), ", transfer ", sequence, ": rank ", waiting.value, " waits for");
  const char* separator = " ";
  for (const PendingRank& p : pending) {
    absl::StrAppend(&out, separator, "rank ", p.rank.value, " on host ", p.host, " (");
    const char* comma = "";
    if (p.expected > 0) {
      absl::StrAppend(&out, p.arrived, " of ", p.expected, " ", p.unit, " arrived");
      comma = ", ";
    }
    if (p.untaken > 0) {
      absl::StrAppend(&out, comma, p.untaken, " ", p.unit, " for it not taken");
      comma = ", ";
    }
    if (!p.process_state.empty()) {
      absl::StrAppend(&out, comma, "its process is ", p.process_state);
      comma = ", ";
    }
    if (!p.last_sign.empty()) absl::StrAppend(&out, comma, p.last_sign);
    absl::StrAppend(&out, ")");
    separator = ", ";
  }
  return out;
}

absl::Status WaitError(absl::StatusCode code, absl::Duration timeout, const std::string& description) {
  if (code == absl::StatusCode::kCancelled) {
    return absl::CancelledError(absl::StrCat("asked to stop (did another rank end?) while waiting: ", description));
  }
  return absl::DeadlineExceededError(
      absl::StrCat("no progress possible within ", absl::FormatDuration(timeout), ": ", description));
}

}  // namespace tokenferry

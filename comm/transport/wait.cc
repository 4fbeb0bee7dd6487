#include "comm/transport/wait.h"

#include <sched.h>
#include <time.h>

#include <algorithm>
#include <atomic>

#include "comm/transport/last_words.h"
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

PendingRank DescribePending(RankId rank, int64_t expected_bytes, int64_t arrived_bytes, int64_t untaken_bytes,
                            int64_t row_bytes) {
  PendingRank p{.rank = rank};
  if (row_bytes > 0) p.unit = absl::StrCat("rows of ", row_bytes, " bytes");
  const int64_t unit_bytes = row_bytes > 0 ? row_bytes : 1;
  p.expected = expected_bytes / unit_bytes;
  p.arrived = arrived_bytes / unit_bytes;
  p.untaken = untaken_bytes / unit_bytes;
  return p;
}

std::string DescribeLastSign(int64_t sequence, int64_t at_ns) {
  if (sequence < 0) return "nothing heard of it yet";
  const absl::Duration ago = absl::Trunc(absl::Nanoseconds(SteadyNanos() - at_ns), absl::Milliseconds(1));
  return absl::StrCat("last heard of in transfer ", sequence, ", ", absl::FormatDuration(ago), " ago");
}

std::string DescribeWait(const Transport& transport, const CallSite& site, int64_t sequence,
                         const std::vector<PendingRank>& pending) {
  std::string out =
      absl::StrCat(ToString(site), ", transfer ", sequence, ": rank ", transport.rank().value, " waits for");
  const char* separator = " ";
  for (const PendingRank& p : pending) {
    absl::StrAppend(&out, separator, "rank ", p.rank.value, " on host ", transport.host(p.rank), " (");
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

absl::Status ValidateArgs(const Transport& transport, const CallSite& site, const AllToAllVArgs& args) {
  const size_t num_offsets = static_cast<size_t>(transport.num_ranks()) + 1;
  auto invalid = [&](absl::string_view what) {
    return absl::InvalidArgumentError(absl::StrCat(ToString(site), ": rank ", transport.rank().value, ": ", what));
  };
  if (args.send_offsets.size() != num_offsets || args.recv_offsets.size() != num_offsets) {
    return invalid(absl::StrCat("send_offsets has ", args.send_offsets.size(), " and recv_offsets ",
                                args.recv_offsets.size(), " entries, need ", num_offsets));
  }
  if (args.send_offsets[0] < 0 || args.recv_offsets[0] < 0) return invalid("offsets start below 0");
  for (size_t i = 0; i + 1 < num_offsets; ++i) {
    if (args.send_offsets[i + 1] < args.send_offsets[i]) return invalid(absl::StrCat("send_offsets fall at rank ", i));
    if (args.recv_offsets[i + 1] < args.recv_offsets[i]) return invalid(absl::StrCat("recv_offsets fall at rank ", i));
  }
  if (args.num_parts < 1 || args.part < 0 || args.part >= args.num_parts ||
      (args.num_parts > 1 && args.row_bytes < 1)) {
    return invalid(absl::StrCat("part ", args.part, " of ", args.num_parts, ", of rows of ", args.row_bytes, " bytes"));
  }
  const size_t own = static_cast<size_t>(transport.rank().value);
  const int64_t own_send = args.send_offsets[own + 1] - args.send_offsets[own];
  const int64_t own_recv = args.recv_offsets[own + 1] - args.recv_offsets[own];
  if (own_send != own_recv) {
    return invalid(absl::StrCat("sends itself ", own_send, " bytes but expects ", own_recv));
  }
  return absl::OkStatus();
}

}  // namespace tokenferry

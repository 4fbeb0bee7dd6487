// The one clock of the program. Deadlines, waits and statistics are taken from the steady clock: nobody can set it, so
// a wall clock that is stepped while a rank waits changes nothing.
#pragma once

#include <cstdint>
#include <limits>

#include "absl/time/time.h"

namespace tokenferry {

// Nanoseconds since an origin that all processes of a host share (CLOCK_MONOTONIC). Not comparable between hosts.
int64_t SteadyNanos();

// A point of the steady clock until which something may take. A value.
class Deadline {
 public:
  static Deadline After(absl::Duration timeout);  // infinite: Never
  static Deadline Never() { return Deadline(kNever); }

  absl::Duration Remaining() const;  // not negative; infinite for Never
  bool Expired() const { return ExpiredAt(SteadyNanos()); }
  bool ExpiredAt(int64_t now_ns) const { return now_ns >= at_ns_; }  // for who has read the clock
  // Moves it `by` >= 0 into the future.
  void Extend(absl::Duration by);

 private:
  static constexpr int64_t kNever = std::numeric_limits<int64_t>::max();
  explicit Deadline(int64_t at_ns) : at_ns_(at_ns) {}

  int64_t at_ns_;
};

// Counts from its construction.
class Stopwatch {
 public:
  absl::Duration elapsed() const { return absl::Nanoseconds(SteadyNanos() - start_ns_); }
  double seconds() const { return static_cast<double>(SteadyNanos() - start_ns_) * 1e-9; }

 private:
  int64_t start_ns_ = SteadyNanos();
};

// Adds the time from its construction to its destruction to `seconds`.
class ScopedTimer {
 public:
  explicit ScopedTimer(double& seconds) : seconds_(seconds) {}
  ~ScopedTimer() { seconds_ += watch_.seconds(); }
  ScopedTimer(const ScopedTimer&) = delete;
  ScopedTimer& operator=(const ScopedTimer&) = delete;

 private:
  double& seconds_;
  const Stopwatch watch_;
};

}  // namespace tokenferry

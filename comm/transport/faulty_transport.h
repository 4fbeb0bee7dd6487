// Decorator for tests: a rank that is late, or that stops taking part.
#pragma once

#include <functional>
#include <limits>
#include <memory>
#include <string>

#include "comm/transport/transport.h"

namespace tokenferry {

inline constexpr int64_t kNever = std::numeric_limits<int64_t>::max();

// Calls count from 0, over transfers started and EnterPhase together.
struct FaultOptions {
  absl::Duration delay = absl::ZeroDuration();       // slept before
  int64_t delay_call = kNever;                       //   this call,
  std::string delay_phase;                           //   and every call of this phase (empty: none)
  std::function<void(const CallSite&)> before_call;  // gets where each call is about to happen; may stop the process
  absl::Duration max_skew = absl::ZeroDuration();    // slept before every call: random, up to this
  uint64_t skew_seed = 0;
  int64_t drop_from_call = kNever;                  // from here on this rank takes no part: each call sleeps
  absl::Duration drop_wait = absl::ZeroDuration();  //   this long and returns Unavailable
};

std::unique_ptr<Transport> CreateFaultyTransport(std::unique_ptr<Transport> inner, const FaultOptions& options);

}  // namespace tokenferry

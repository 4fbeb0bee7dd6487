// Waiting for other threads and processes without wasting the processor that another one needs.
#pragma once

#include <cstdint>

#include "core/host/clock.h"

namespace tokenferry {

// Whether busy waiting takes a processor away from a thread that has work. True when the thread pools of this process
// have more threads than this process may use CPUs, or after SetHostLoad(kOversubscribed). Any thread; cheap.
bool Oversubscribed();

// For what this process cannot see: the other ranks of this host. Set at start-up from PlanAffinity
// (core/host/affinity.h).
enum class HostLoad : uint8_t { kFits, kOversubscribed };
void SetHostLoad(HostLoad load);

namespace internal {
void AddPoolThreads(int num_threads);  // called by ThreadPool; negative when it ends
void CpuPause();                       // the processor's hint that this is a spin loop
}  // namespace internal

// The waiting of one loop: call Pause() each time the condition does not hold. First the processor's pause instruction
// for a few microseconds (skipped when Oversubscribed()), then sched_yield, then sleeps that grow to about 100 us.
class SpinWait {
 public:
  SpinWait();
  void Pause();

  static constexpr int kNumSpins = 128;  // pauses of 20 to 50 ns each
  static constexpr int kNumYields = 64;

 private:
  int num_turns_ = 0;
};

enum class WaitResult : uint8_t { kReady, kExpired };

// Until ready() returns true. `ready` is called at least once, and once more after the deadline.
template <class Ready>
WaitResult WaitUntil(Ready ready, Deadline deadline) {
  SpinWait wait;
  while (!ready()) {
    if (deadline.Expired()) return ready() ? WaitResult::kReady : WaitResult::kExpired;
    wait.Pause();
  }
  return WaitResult::kReady;
}

}  // namespace tokenferry

#include "core/host/wait.h"

#include <sched.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <thread>

#include "core/host/affinity.h"

namespace tokenferry {
namespace {

std::atomic<int> num_pool_threads{0};
std::atomic<HostLoad> host_load{HostLoad::kFits};

}  // namespace

bool Oversubscribed() {
  return host_load.load(std::memory_order_relaxed) == HostLoad::kOversubscribed ||
         num_pool_threads.load(std::memory_order_relaxed) > NumProcessCpus();
}

void SetHostLoad(HostLoad load) { host_load.store(load, std::memory_order_relaxed); }

namespace internal {

void AddPoolThreads(int num_threads) { num_pool_threads.fetch_add(num_threads, std::memory_order_relaxed); }

void CpuPause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("isb");  // about the length of x86's pause, which `yield` is not
#endif
}

}  // namespace internal

SpinWait::SpinWait() : num_turns_(Oversubscribed() ? kNumSpins : 0) {}

void SpinWait::Pause() {
  if (num_turns_ < kNumSpins) {
    internal::CpuPause();
  } else if (num_turns_ < kNumSpins + kNumYields) {
    sched_yield();
  } else {
    const int doublings = std::min(num_turns_ - kNumSpins - kNumYields, 6);
    std::this_thread::sleep_for(std::chrono::nanoseconds(1600 << doublings));  // 1.6 to 102 us
    if (doublings == 6) return;
  }
  ++num_turns_;
}

}  // namespace tokenferry

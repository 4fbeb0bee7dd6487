// What this machine can do right now: the bounds that figures are compared with, and whether its processors are really
// there (on a virtual machine two of them may share a core for minutes).
#pragma once

#include "comm/transport/transport.h"
#include "core/host/isa.h"
#include "core/host/thread_pool.h"

namespace tokenferry {

struct MachineBounds {
  double read_bytes_per_second = 0;  // of memory beyond the caches, all threads of the pool
  double flops_per_second = 0;       // f32 fused multiply-adds in registers
};
// A read of memory beyond the caches by all threads of a pool; takes a few milliseconds.
class MemoryRead {
 public:
  // `num_bytes` by all threads of the pool, less what is no multiple of 512 per thread; more than the caches hold, if
  // it is to be memory that is read.
  MemoryRead(ThreadPool& pool, Isa isa, int64_t num_bytes);
  int64_t num_bytes() const;
  void Run();

 private:
  ThreadPool& pool_;
  const Isa isa_;
  const int64_t floats_per_thread_;
  std::vector<float> memory_, sums_;
};

// The fastest of several reads, the median of several runs of multiply-adds. `seconds` is the clock.
MachineBounds MeasureBounds(ThreadPool& pool, Isa isa, double (*seconds)());

// Multiply-adds of two threads on two CPUs at once over those of one alone: 2 when they have a core each, 1 when they
// share one; 0 where there are no two CPUs to use. Takes a quarter of a second.
double TwoCoreRatio(Isa isa);

// Collective: rank 0's TwoCoreRatio while the other ranks sleep; the same on every rank. 0 with ranks on other hosts.
absl::StatusOr<double> TwoCoreRatioOfGroup(Transport& transport, Isa isa);

}  // namespace tokenferry

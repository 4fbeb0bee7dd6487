// A small pool of pinned worker threads for kernels. One pool per rank.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/functional/function_ref.h"

namespace tokenferry {

class ThreadPool {
 public:
  // `num_threads` >= 1 in all, the calling thread included: num_threads - 1 workers are started. `cpus` has
  // num_threads entries: worker i is pinned to logical CPU cpus[i] (the caller is not touched); or none: no pinning.
  explicit ThreadPool(int num_threads, std::vector<int> cpus = {});
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int num_threads() const;

  // Runs body(task, thread) for every task in [0, num_tasks), each exactly once, on any thread, in any order;
  // thread in [0, num_threads). Returns when all have run; what they wrote is visible to the caller. Only one
  // thread may call at a time; body must not call ParallelFor. Idle workers spin for up to 100 us (not when
  // Oversubscribed(), core/host/wait.h), then sleep.
  void ParallelFor(int64_t num_tasks, absl::FunctionRef<void(int64_t task, int thread)> body);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace tokenferry

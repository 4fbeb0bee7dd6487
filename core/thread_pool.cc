#include "core/thread_pool.h"

#include <pthread.h>
#include <sched.h>

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>

#include "core/check.h"
#include "core/log.h"

namespace tokenferry {

struct ThreadPool::State {
  int num_threads;
  std::vector<std::thread> workers;
  std::mutex mutex;
  std::condition_variable wake, done;
  uint64_t generation = 0;
  bool stop = false;
  int running = 0;
  int64_t num_tasks = 0;
  std::atomic<int64_t> next{0};
  const absl::FunctionRef<void(int64_t, int)>* body = nullptr;

  void Work(int thread) {
    for (int64_t task = next.fetch_add(1); task < num_tasks; task = next.fetch_add(1)) (*body)(task, thread);
  }

  void Worker(int thread) {
    uint64_t seen = 0;
    std::unique_lock lock(mutex);
    while (true) {
      wake.wait(lock, [&] { return stop || generation != seen; });
      if (stop) return;
      seen = generation;
      lock.unlock();
      Work(thread);
      lock.lock();
      if (--running == 0) done.notify_one();
    }
  }
};

ThreadPool::ThreadPool(int num_threads, std::vector<int> cpus) : state_(std::make_unique<State>()) {
  TF_CHECK_GE(num_threads, 1);
  state_->num_threads = num_threads;
  for (int i = 1; i < num_threads; ++i) {
    state_->workers.emplace_back([this, i, rank = LogRank()] {
      SetLogRank(rank);
      state_->Worker(i);
    });
    if (static_cast<int>(cpus.size()) == num_threads) {
      cpu_set_t set;
      CPU_ZERO(&set);
      CPU_SET(cpus[i], &set);
      pthread_setaffinity_np(state_->workers.back().native_handle(), sizeof(set), &set);
    }
  }
}

ThreadPool::~ThreadPool() {
  {
    std::lock_guard lock(state_->mutex);
    state_->stop = true;
  }
  state_->wake.notify_all();
  for (auto& worker : state_->workers) worker.join();
}

int ThreadPool::num_threads() const { return state_->num_threads; }

void ThreadPool::ParallelFor(int64_t num_tasks, absl::FunctionRef<void(int64_t, int)> body) {
  State& s = *state_;
  if (s.num_threads == 1 || num_tasks <= 1) {
    for (int64_t task = 0; task < num_tasks; ++task) body(task, 0);
    return;
  }
  {
    std::lock_guard lock(s.mutex);
    s.num_tasks = num_tasks;
    s.next.store(0);
    s.body = &body;
    s.running = s.num_threads - 1;
    ++s.generation;
  }
  s.wake.notify_all();
  s.Work(0);
  std::unique_lock lock(s.mutex);
  s.done.wait(lock, [&] { return s.running == 0; });
}

}  // namespace tokenferry

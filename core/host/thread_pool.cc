#include "core/host/thread_pool.h"

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>

#include "core/check.h"
#include "core/host/affinity.h"
#include "core/host/wait.h"
#include "core/log.h"

namespace tokenferry {
namespace {

// Tasks are claimed in units of a few neighbours when there are very many, so that claiming never dominates.
constexpr int64_t kClaimsPerThread = 256;

constexpr uint64_t kNumClaimsMask = 0xFFFFFFFFu;

// Pauses of 20 to 50 ns each before a thread sleeps. Between two operations of a decode step one thread works for 5 to
// 30 us, and waking a thread takes as long: workers that stay awake meanwhile decode a small model 5 to 8 % faster on
// two threads.
constexpr int kNumSpins = 2048;

}  // namespace

// A job is published by storing its number and its number of claims in one word. Whoever takes one off the count has a
// claim of that very job, and as long as claims are open ParallelFor does not return; so a worker that wakes up late
// finds no claim and touches nothing, and nobody waits for workers that sleep.
struct ThreadPool::State {
  int num_threads;
  std::vector<std::thread> workers;

  alignas(64) std::atomic<uint64_t> job{0};            // job number << 32 | claims not yet taken
  alignas(64) std::atomic<int64_t> num_unfinished{0};  // claims of the job that have not run yet
  alignas(64) std::atomic<int> num_sleeping{0};        // workers in wake.wait
  std::atomic<bool> caller_sleeps{false};
  std::atomic<bool> stop{false};
  std::mutex mutex;
  std::condition_variable wake, done;

  // Of the current job: written by the caller before `job`, read by those who have a claim.
  int64_t num_tasks = 0, num_claims = 0, tasks_per_claim = 1;
  const absl::FunctionRef<void(int64_t, int)>* body = nullptr;

  void RunClaims(int thread);
  void Worker(int thread);
  uint64_t AwaitJob(uint64_t last_job);
  void Publish(int64_t tasks, const absl::FunctionRef<void(int64_t, int)>& b);
  void AwaitDone();
};

void ThreadPool::State::RunClaims(int thread) {
  int64_t num_run = 0;
  uint64_t seen = job.load(std::memory_order_acquire);
  while ((seen & kNumClaimsMask) != 0) {
    if (!job.compare_exchange_weak(seen, seen - 1, std::memory_order_acq_rel, std::memory_order_acquire)) continue;
    const int64_t claim = num_claims - static_cast<int64_t>(seen & kNumClaimsMask);
    const int64_t begin = claim * tasks_per_claim, end = std::min(num_tasks, begin + tasks_per_claim);
    for (int64_t task = begin; task < end; ++task) (*body)(task, thread);
    ++num_run;
    --seen;
  }
  if (num_run == 0) return;
  if (num_unfinished.fetch_sub(num_run) == num_run && caller_sleeps.load()) {
    { std::lock_guard lock(mutex); }  // the caller is either before its check or in wait
    done.notify_one();
  }
}

// The job word after `last_job` (spins, then sleeps); any value when the pool stops.
uint64_t ThreadPool::State::AwaitJob(uint64_t last_job) {
  const auto changed = [&] { return (job.load() >> 32) != (last_job >> 32) || stop.load(); };
  if (!Oversubscribed()) {
    for (int i = 0; i < kNumSpins; ++i) {
      if (changed()) return job.load();
      internal::CpuPause();
    }
  }
  std::unique_lock lock(mutex);
  num_sleeping.fetch_add(1);
  wake.wait(lock, changed);
  num_sleeping.fetch_sub(1);
  return job.load();
}

void ThreadPool::State::Worker(int thread) {
  uint64_t last_job = 0;
  while (true) {
    last_job = AwaitJob(last_job);
    if (stop.load()) return;
    RunClaims(thread);
  }
}

void ThreadPool::State::Publish(int64_t tasks, const absl::FunctionRef<void(int64_t, int)>& b) {
  num_tasks = tasks;
  tasks_per_claim = 1 + tasks / (num_threads * kClaimsPerThread);
  num_claims = (tasks + tasks_per_claim - 1) / tasks_per_claim;
  body = &b;
  num_unfinished.store(num_claims, std::memory_order_relaxed);
  const uint64_t number = (job.load(std::memory_order_relaxed) >> 32) + 1;
  job.store(number << 32 | static_cast<uint64_t>(num_claims));
  // Sequentially consistent, as the sleeper's count and check: either it sees the job or we see it asleep.
  const int num_asleep = num_sleeping.load();
  if (num_asleep == 0) return;
  { std::lock_guard lock(mutex); }
  if (num_claims - 1 >= num_asleep) {
    wake.notify_all();
  } else {
    for (int64_t i = 0; i < num_claims - 1; ++i) wake.notify_one();
  }
}

void ThreadPool::State::AwaitDone() {
  if (!Oversubscribed()) {
    for (int i = 0; i < kNumSpins; ++i) {
      if (num_unfinished.load() == 0) return;
      internal::CpuPause();
    }
  }
  if (num_unfinished.load() == 0) return;
  std::unique_lock lock(mutex);
  caller_sleeps.store(true);
  done.wait(lock, [&] { return num_unfinished.load() == 0; });
  caller_sleeps.store(false);
}

ThreadPool::ThreadPool(int num_threads, std::vector<int> cpus) : state_(std::make_unique<State>()) {
  TF_CHECK_GE(num_threads, 1);
  TF_CHECK(cpus.empty() || cpus.size() == static_cast<size_t>(num_threads));
  internal::AddPoolThreads(num_threads);
  state_->num_threads = num_threads;
  for (int i = 1; i < num_threads; ++i) {
    state_->workers.emplace_back([state = state_.get(), i, rank = LogRank(), cpu = cpus.empty() ? -1 : cpus[i]] {
      SetLogRank(rank);
      if (cpu >= 0) {
        // A pool that is not pinned is slow, not wrong.
        if (const absl::Status pinned = PinThisThread({cpu}); !pinned.ok()) LogWarning(pinned.message());
      }
      state->Worker(i);
    });
  }
}

ThreadPool::~ThreadPool() {
  {
    std::lock_guard lock(state_->mutex);
    state_->stop.store(true);
  }
  state_->wake.notify_all();
  for (auto& worker : state_->workers) worker.join();
  internal::AddPoolThreads(-state_->num_threads);
}

int ThreadPool::num_threads() const { return state_->num_threads; }

void ThreadPool::ParallelFor(int64_t num_tasks, absl::FunctionRef<void(int64_t, int)> body) {
  State& s = *state_;
  if (s.num_threads == 1 || num_tasks <= 1) {
    for (int64_t task = 0; task < num_tasks; ++task) body(task, 0);
    return;
  }
  s.Publish(num_tasks, body);
  s.RunClaims(0);
  s.AwaitDone();
}

}  // namespace tokenferry

#include "core/host/thread_pool.h"

#include <gtest/gtest.h>
#include <sched.h>

#include <atomic>
#include <chrono>
#include <random>
#include <set>
#include <thread>
#include <vector>

#include "core/host/affinity.h"
#include "core/host/wait.h"
#include "core/log.h"

namespace tokenferry {
namespace {

// Plain ints, so that a missing synchronisation is a data race that ThreadSanitizer sees.
void ExpectEachTaskOnce(ThreadPool& pool, int64_t num_tasks) {
  std::vector<int> num_runs(num_tasks, 0);
  std::atomic<int> num_bad_threads{0};
  pool.ParallelFor(num_tasks, [&](int64_t task, int thread) {
    ++num_runs[task];
    if (thread < 0 || thread >= pool.num_threads()) ++num_bad_threads;
  });
  EXPECT_EQ(num_runs, std::vector<int>(num_tasks, 1));
  EXPECT_EQ(num_bad_threads.load(), 0);
}

TEST(ThreadPoolTest, RunsEachTaskOnce) {
  for (int num_threads : {1, 2, 3, 7}) {
    ThreadPool pool(num_threads);
    EXPECT_EQ(pool.num_threads(), num_threads);
    for (int64_t num_tasks : {0, 1, 2, 3, 7, 8, 255, 256, 257, 1000, 7777, 100003}) ExpectEachTaskOnce(pool, num_tasks);
  }
}

TEST(ThreadPoolTest, ManySmallJobsInARow) {
  const uint32_t seed = std::random_device{}();
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937 random(seed);
  for (int num_threads : {2, 5}) {
    ThreadPool pool(num_threads);
    std::vector<int64_t> sums(64, 0), expected(64, 0);  // each job adds to what others wrote, on whatever thread
    for (int job = 0; job < 5000; ++job) {
      const int64_t num_tasks = 1 + random() % 64;
      pool.ParallelFor(num_tasks, [&](int64_t task, int) { sums[num_tasks - 1 - task] += job + task; });
      for (int64_t task = 0; task < num_tasks; ++task) expected[num_tasks - 1 - task] += job + task;
    }
    EXPECT_EQ(sums, expected);
  }
}

TEST(ThreadPoolTest, WorkersThatSleepWakeUp) {
  ThreadPool pool(3);
  for (int round = 0; round < 20; ++round) {
    std::this_thread::sleep_for(std::chrono::milliseconds(2));  // far longer than they spin
    ExpectEachTaskOnce(pool, 100);
  }
}

// All threads take part: each task waits until every thread has one.
TEST(ThreadPoolTest, TasksRunAtTheSameTime) {
  constexpr int kNumThreads = 4;
  ThreadPool pool(kNumThreads);
  std::atomic<int> num_arrived{0};
  std::vector<int> task_of_thread(kNumThreads, -1);
  pool.ParallelFor(kNumThreads, [&](int64_t task, int thread) {
    task_of_thread[thread] = static_cast<int>(task);
    num_arrived.fetch_add(1);
    EXPECT_EQ(WaitUntil([&] { return num_arrived.load() == kNumThreads; }, Deadline::After(absl::Seconds(30))),
              WaitResult::kReady);
  });
  EXPECT_EQ(std::set<int>(task_of_thread.begin(), task_of_thread.end()), (std::set<int>{0, 1, 2, 3}));
}

TEST(ThreadPoolTest, SeveralPoolsWorkAtOnce) {
  std::vector<std::thread> ranks;
  for (int rank = 0; rank < 3; ++rank) {
    ranks.emplace_back([] {
      ThreadPool pool(2);
      for (int i = 0; i < 200; ++i) ExpectEachTaskOnce(pool, 1 + i % 17);
    });
  }
  for (auto& rank : ranks) rank.join();
}

TEST(ThreadPoolTest, WorkersArePinnedAndTheCallerIsNot) {
  const std::vector<int> allowed = AllowedCpus();
  std::vector<int> cpus;
  for (int i = 0; i < 3; ++i) cpus.push_back(allowed[i % allowed.size()]);
  ThreadPool pool(3, cpus);
  std::vector<std::vector<int>> seen(3);
  std::atomic<int> num_arrived{0};
  pool.ParallelFor(3, [&](int64_t, int thread) {
    seen[thread] = AllowedCpus();
    num_arrived.fetch_add(1);
    WaitUntil([&] { return num_arrived.load() == 3; }, Deadline::After(absl::Seconds(30)));
  });
  EXPECT_EQ(seen[0], allowed);
  EXPECT_EQ(seen[1], std::vector<int>{cpus[1]});
  EXPECT_EQ(seen[2], std::vector<int>{cpus[2]});
}

TEST(ThreadPoolTest, ACpuThatDoesNotExistIsNoDisaster) {
  SetLogLevel(LogLevel::kOff);
  {
    ThreadPool pool(2, {0, 60000});
    ExpectEachTaskOnce(pool, 50);
  }
  SetLogLevel(LogLevel::kInfo);
}

TEST(ThreadPoolTest, WorkersHaveTheRankOfTheirOwner) {
  SetLogRank(5);
  ThreadPool pool(2);
  SetLogRank(-1);
  std::atomic<int> num_arrived{0};
  std::vector<int> ranks(2, -2);
  pool.ParallelFor(2, [&](int64_t, int thread) {
    ranks[thread] = LogRank();
    num_arrived.fetch_add(1);
    WaitUntil([&] { return num_arrived.load() == 2; }, Deadline::After(absl::Seconds(30)));
  });
  EXPECT_EQ(ranks[1], 5);
}

TEST(ThreadPoolTest, CountsAsLoadOfThisProcess) {
  EXPECT_FALSE(Oversubscribed());
  {
    ThreadPool pool(static_cast<int>(AllowedCpus().size()) + 1);
    EXPECT_TRUE(Oversubscribed());
    ExpectEachTaskOnce(pool, 100);
  }
  EXPECT_FALSE(Oversubscribed());
}

}  // namespace
}  // namespace tokenferry

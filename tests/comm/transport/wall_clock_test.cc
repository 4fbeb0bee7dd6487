// While ranks wait, somebody sets the clock of the host: waits neither lengthen nor end early, and no time that is
// counted or told has the step in it.
//
// The wall clock of this process is our own: the functions that read it are replaced, for the libraries too, and it
// jumps by an hour, back and forth, every few milliseconds.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

#include "absl/time/clock.h"
#include "comm/transport/collectives.h"
#include "comm/transport/faulty_transport.h"
#include "comm/transport/local_transport.h"
#include "comm/tuning/exchange_choice.h"
#include "comm/wait/wait.h"
#include "core/device/cpu_device.h"
#include "core/host/clock.h"
#include "core/host/wait.h"

namespace {

std::atomic<int64_t> step_s{0};  // added to the wall clock

timespec Read(clockid_t clock) {
  timespec now = {};
  syscall(SYS_clock_gettime, clock, &now);
  if (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE) now.tv_sec += step_s.load();
  return now;
}

}  // namespace

extern "C" int clock_gettime(clockid_t clock, timespec* now) noexcept {
  *now = Read(clock);
  return 0;
}

extern "C" int gettimeofday(timeval* now, void*) noexcept {
  const timespec read = Read(CLOCK_REALTIME);
  *now = {read.tv_sec, read.tv_nsec / 1000};
  return 0;
}

extern "C" time_t time(time_t* out) noexcept {
  const time_t now = Read(CLOCK_REALTIME).tv_sec;
  if (out != nullptr) *out = now;
  return now;
}

namespace tokenferry {
namespace {

using testing::AllOf;
using testing::HasSubstr;

constexpr int64_t kHour = 3600;
constexpr absl::Duration kMuchLater = absl::Minutes(10);  // far above what a busy machine takes, far below a step

// Steps the wall clock as long as it lives.
class Stepper {
 public:
  Stepper()
      : thread_([this] {
          for (int i = 0; !done_.load(); ++i) {
            constexpr int64_t kSteps[] = {kHour, -kHour, 0, 2 * kHour};
            step_s.store(kSteps[i % 4]);
            absl::SleepFor(absl::Milliseconds(3));
          }
        }) {}
  ~Stepper() {
    done_.store(true);
    thread_.join();
    step_s.store(0);
  }

 private:
  std::atomic<bool> done_{false};
  std::thread thread_;
};

// Without this the tests below would show nothing.
TEST(WallClock, IsSteppedForEverybody) {
  step_s.store(0);
  const absl::Time absl_before = absl::Now();
  const auto std_before = std::chrono::system_clock::now();
  const time_t c_before = time(nullptr);
  timeval bsd_before = {}, bsd_after = {};
  gettimeofday(&bsd_before, nullptr);
  const Stopwatch watch;
  step_s.store(-kHour);
  EXPECT_LT(absl::Now() - absl_before, -absl::Minutes(50));
  EXPECT_LT(std::chrono::system_clock::now() - std_before, -std::chrono::minutes(50));
  EXPECT_LT(time(nullptr) - c_before, -3000);
  gettimeofday(&bsd_after, nullptr);
  EXPECT_LT(bsd_after.tv_sec - bsd_before.tv_sec, -3000);
  EXPECT_GE(watch.elapsed(), absl::ZeroDuration());
  EXPECT_LT(watch.elapsed(), kMuchLater);
  step_s.store(0);
}

// After "last heard of in transfer 0, ".
absl::Duration LastSign(const absl::Status& status) {
  const std::string message(status.message());
  const std::string before = "last heard of in transfer 0, ";
  const size_t at = message.find(before);
  absl::Duration ago = -absl::InfiniteDuration();
  if (at != std::string::npos) {
    const size_t begin = at + before.size();
    EXPECT_TRUE(absl::ParseDuration(message.substr(begin, message.find(" ago", begin) - begin), &ago)) << message;
  }
  return ago;
}

TEST(WallClock, DeadlinesAndStopwatchesDoNotKnowIt) {
  const Stepper stepper;
  double counted = 0;
  for (int i = 0; i < 20; ++i) {
    const ScopedTimer timer(counted);
    const Stopwatch watch;
    const Deadline deadline = Deadline::After(absl::Milliseconds(10));
    EXPECT_EQ(WaitUntil([] { return false; }, deadline), WaitResult::kExpired);
    EXPECT_GE(watch.elapsed(), absl::Milliseconds(10));
  }
  EXPECT_GE(counted, 0.2);
  EXPECT_LT(counted, absl::ToDoubleSeconds(kMuchLater));
}

TEST(WallClock, ATransferEndsAtItsDeadlineAndNotBefore) {
  const Stepper stepper;
  auto group = CreateLocalGroup(2, {.timeout = absl::Seconds(1)});
  absl::Status status;
  absl::Duration waited;
  std::thread other([&] { EXPECT_EQ(Barrier(*group[1], {"first"}), absl::OkStatus()); });
  EXPECT_EQ(Barrier(*group[0], {"first"}), absl::OkStatus());
  other.join();
  const Stopwatch watch;
  status = Barrier(*group[0], {"combine rows", 3, 17});
  waited = watch.elapsed();
  EXPECT_EQ(status.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_THAT(std::string(status.message()), AllOf(HasSubstr("within 1s"), HasSubstr("waits for rank 1")));
  EXPECT_GE(waited, absl::Seconds(1));
  EXPECT_LT(waited, kMuchLater);
  EXPECT_GE(LastSign(status), absl::Seconds(1));
  EXPECT_LT(LastSign(status), kMuchLater);
}

TEST(WallClock, AStopRequestHasItsGrace) {
  const Stepper stepper;
  auto group = CreateLocalGroup(2, {.timeout = absl::InfiniteDuration()});
  RequestStop();
  const Stopwatch watch;
  EXPECT_EQ(Barrier(*group[0], {"step plan"}).code(), absl::StatusCode::kCancelled);
  ClearStopRequest();
  EXPECT_GE(watch.elapsed(), kStopGrace);
  EXPECT_LT(watch.elapsed(), kMuchLater);
}

// Longer than what counts as "was not running", with many steps in it.
TEST(WallClock, ALateRankIsWaitedFor) {
  const Stepper stepper;
  auto group = CreateLocalGroup(2, {.timeout = kMuchLater});
  group[1] = CreateFaultyTransport(std::move(group[1]), {.delay = absl::Milliseconds(700), .delay_call = 0});
  std::thread other([&] { EXPECT_EQ(Barrier(*group[1], {"late"}), absl::OkStatus()); });
  EXPECT_EQ(Barrier(*group[0], {"late"}), absl::OkStatus());
  other.join();
  EXPECT_GE(group[0]->wait_seconds_per_rank()[1], 0.0);
  EXPECT_LT(group[0]->wait_seconds_per_rank()[1], absl::ToDoubleSeconds(kMuchLater));
}

// Flags in shared memory instead of messages; and the statistics of an exchange.
TEST(WallClock, AnExchangeInSharedMemoryEndsAtItsDeadline) {
  const Stepper stepper;
  auto group = CreateLocalGroup(2, {.timeout = absl::Seconds(1)});
  constexpr int kTokens = 4;
  const auto run = [&](int rank) {
    auto device = CreateCpuDevice({});
    auto stream = *device->CreateStream();
    auto exchange = *CreateExchange(*group[rank], *device, {.hidden = 8, .path = ExchangePath::kPeer});
    std::vector<int32_t> idx(kTokens, 1 - rank);
    std::vector<float> weight(kTokens, 1), rows(kTokens * 8, 2), out(kTokens * 8);
    const Routing routing{MakeMatrix<int32_t>(idx.data(), kTokens, 1), MakeMatrix<float>(weight.data(), kTokens, 1)};
    const Placement placement = Placement::Linear(2, 2);
    for (int step = 0; step < 2; ++step) {
      if (rank == 1 && step == 1) break;  // it never comes
      const CallSite site{"moe", 0, step};
      const absl::Status planned = exchange->Plan(*stream, site, routing, placement);
      if (step == 1) {
        EXPECT_EQ(planned.code(), absl::StatusCode::kDeadlineExceeded) << planned;
        break;
      }
      ASSERT_EQ(planned, absl::OkStatus());
      ASSERT_TRUE(exchange->Dispatch(*stream, site, MakeMatrix<float>(rows.data(), kTokens, 8)).ok());
      ASSERT_TRUE(exchange->ExpertOut().ok());
      ASSERT_EQ(exchange->Combine(*stream, site, routing.weight, MakeMatrix<float>(out.data(), kTokens, 8)),
                absl::OkStatus());
    }
    const ExchangeStats stats = *exchange->stats(*stream);
    for (const double seconds :
         {stats.plan_seconds, stats.dispatch_seconds, stats.combine_seconds, stats.wait_seconds_per_rank[1 - rank]}) {
      EXPECT_GE(seconds, 0.0);
      EXPECT_LT(seconds, absl::ToDoubleSeconds(kMuchLater));
    }
  };
  const Stopwatch watch;
  std::thread other([&] { run(1); });
  run(0);
  other.join();
  EXPECT_GE(watch.elapsed(), absl::Seconds(1));
  EXPECT_LT(watch.elapsed(), kMuchLater);
}

}  // namespace
}  // namespace tokenferry

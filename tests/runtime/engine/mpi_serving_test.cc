// What it costs to wait for work, and how fast work that comes then begins, over MPI. Both are printed; the bounds are
// generous, since the machine may be busy with something else.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <ctime>
#include <numeric>

#include "comm/transport/collectives.h"
#include "comm/transport/mpi_transport.h"
#include "core/host/clock.h"
#include "runtime/engine/serving_loop.h"
#include "tests/runtime/engine/engine_runner.h"
#include "tests/runtime/engine/mixed_requests.h"

namespace tokenferry {
namespace {

double CpuSeconds() {
  timespec now;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

// One request after the other, each after `pause` without any.
class LateRequests {
 public:
  LateRequests(CommandQueue& commands, int count) : commands_(commands), count_(count) {}

  absl::Status OnStep(const StepReport& report) {
    for (const RequestUpdate& u : report.updates) {
      if (u.update.has_token && !seen_) first_token_ms_.push_back(since_push_.seconds() * 1e3), seen_ = true;
      if (u.update.finished()) idle_since_ = report.num_steps;
    }
    if (report.scheduler.num_running > 0) return absl::OkStatus();
    if (report.num_steps < idle_since_ + 3) return absl::OkStatus();  // three heartbeats
    if (static_cast<int>(first_token_ms_.size()) == count_) {
      commands_.Push(DrainCommand{});
    } else if (seen_) {
      seen_ = false;
      Request request = MixedRequests(1)[0];
      request.prompt.resize(1);
      request.max_new_tokens = 2;
      commands_.Push(AddCommand{++next_id_, request});
      since_push_ = Stopwatch();
    }
    return absl::OkStatus();
  }
  const std::vector<double>& first_token_ms() const { return first_token_ms_; }

 private:
  CommandQueue& commands_;
  const int count_;
  bool seen_ = true;
  uint64_t next_id_ = 0;
  int64_t idle_since_ = 0;
  Stopwatch since_push_;
  std::vector<double> first_token_ms_;
};

TEST(MpiServing, IdleRanksTakeLittleAndStartSoon) {
  auto transport = CreateMpiTransport({.timeout = absl::Seconds(60)});
  ASSERT_TRUE(transport.ok()) << transport.status();
  const auto rank = StartEngine(**transport, {});
  ASSERT_TRUE(rank.ok()) << rank.status();
  CommandQueue commands;
  const CommandSource source = [&commands](absl::Duration wait) { return commands.Take(wait); };
  LateRequests requests(commands, 20);
  // Heartbeats and requests first, to warm up and to count; then five quiet seconds.
  const StepObserver on_step = [&](const StepReport& report) { return requests.OnStep(report); };
  absl::Status served = RunServingLoop(*(*rank)->engine, source, {.heartbeat = absl::Milliseconds(20)}, on_step);
  ASSERT_TRUE(served.ok()) << served;
  const double cpu_before = CpuSeconds();
  const Stopwatch watch;
  served = RunServingLoop(*(*rank)->engine, source, {}, [&](const StepReport&) {
    if (watch.seconds() > 5) commands.Push(DrainCommand{});
    return absl::OkStatus();
  });
  ASSERT_TRUE(served.ok()) << served;
  const double share = (CpuSeconds() - cpu_before) / watch.seconds();
  std::printf("rank %d: %.2f %% of a core while idle\n", (*transport)->rank().value, 100 * share);
  EXPECT_LT(share, 0.1);
  if ((*transport)->rank() == RankId(0)) {
    std::vector<double> ms = requests.first_token_ms();
    std::sort(ms.begin(), ms.end());
    std::printf("idle to first token: median %.2f ms, worst %.2f ms of %zu\n", ms[ms.size() / 2], ms.back(), ms.size());
    EXPECT_LT(ms[ms.size() / 2], 1000);
  }
  std::fflush(stdout);
  ASSERT_TRUE(Barrier(**transport, {"test"}).ok());
}

}  // namespace
}  // namespace tokenferry

// How ranks wait for work over MPI: patiently when a plan has said that there is none, promptly else. What that costs,
// and how fast work that comes then begins, is printed.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <ctime>
#include <utility>

#include "comm/transport/collectives.h"
#include "comm/transport/forwarding_transport.h"
#include "comm/transport/mpi_transport.h"
#include "core/host/clock.h"
#include "runtime/engine/serving_loop.h"
#include "tests/runtime/engine/command_queue.h"
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

// Notes how this rank waits for plans.
class NotesWaits : public ForwardingTransport {
 public:
  explicit NotesWaits(Transport& transport) : ForwardingTransport(transport) {}

  absl::StatusOr<TransferHandle> HostBegin(const CallSite& site, const AllToAllVArgs& args) override {
    if (absl::string_view(site.phase) != "step plan") {
      EXPECT_EQ(site.pace, WaitPace::kPrompt) << site.phase;
    } else if (is_size_ = !is_size_; is_size_) {  // a plan's size, and then its bytes, which come at once
      paces_.push_back(site.pace);
    }
    return ForwardingTransport::HostBegin(site, args);
  }
  // By plan, since the last call.
  std::vector<WaitPace> Take() { return std::exchange(paces_, {}); }

 private:
  bool is_size_ = false;
  std::vector<WaitPace> paces_;
};

TEST(MpiServing, RanksWaitPatientlyWhenThereIsNothingToDo) {
  auto transport = CreateMpiTransport({.timeout = absl::Seconds(60)});
  ASSERT_TRUE(transport.ok()) << transport.status();
  NotesWaits waits(**transport);
  const auto rank = StartEngine(waits, {});
  ASSERT_TRUE(rank.ok()) << rank.status();
  CommandQueue commands;
  const CommandSource source = [&commands](absl::Duration wait) { return commands.Take(wait); };
  constexpr int kNumRequests = 20;
  LateRequests requests(commands, kNumRequests);
  // Heartbeats and requests first, to warm up and to count; then five quiet seconds.
  const StepObserver on_step = [&](const StepReport& report) { return requests.OnStep(report); };
  absl::Status served = RunServingLoop(*(*rank)->engine, source, {.heartbeat = absl::Milliseconds(20)}, on_step);
  ASSERT_TRUE(served.ok()) << served;
  // Promptly: for the first plan, and in each request for that of its second token and for the next, which is idle.
  std::vector<WaitPace> paces = waits.Take();
  EXPECT_EQ(std::count(paces.begin(), paces.end(), WaitPace::kPrompt), 1 + 2 * kNumRequests);
  EXPECT_GE(std::count(paces.begin(), paces.end(), WaitPace::kPatient), 3 * kNumRequests);
  const double cpu_before = CpuSeconds();
  const Stopwatch watch;
  served = RunServingLoop(*(*rank)->engine, source, {}, [&](const StepReport&) {
    if (watch.seconds() > 5) commands.Push(DrainCommand{});
    return absl::OkStatus();
  });
  ASSERT_TRUE(served.ok()) << served;
  const double share = (CpuSeconds() - cpu_before) / watch.seconds();
  std::printf("rank %d: %.2f %% of a core while idle\n", (*transport)->rank().value, 100 * share);
  paces = waits.Take();
  ASSERT_GE(paces.size(), 2u);
  EXPECT_EQ(std::count(paces.begin(), paces.end(), WaitPace::kPatient), std::ssize(paces) - 1);
  EXPECT_EQ(paces[0], WaitPace::kPrompt);
  if ((*transport)->rank() == RankId(0)) {
    std::vector<double> ms = requests.first_token_ms();
    std::sort(ms.begin(), ms.end());
    std::printf("idle to first token: median %.2f ms, worst %.2f ms of %zu\n", ms[ms.size() / 2], ms.back(), ms.size());
  }
  std::fflush(stdout);
  ASSERT_TRUE(Barrier(**transport, {"test"}).ok());
}

}  // namespace
}  // namespace tokenferry

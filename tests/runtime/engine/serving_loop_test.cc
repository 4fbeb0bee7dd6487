#include "runtime/engine/serving_loop.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <thread>

#include "comm/wait/wait.h"
#include "tests/runtime/engine/command_queue.h"
#include "tests/runtime/engine/engine_runner.h"
#include "tests/runtime/engine/mixed_requests.h"
#include "tests/support/device_cases.h"
#include "tests/support/slack.h"

namespace tokenferry {
namespace {

using testing::HasSubstr;

struct Answer {
  std::vector<int32_t> tokens;
  std::vector<float> logprobs;
  int num_ends = 0;
  absl::Status error;
};

// Takes part in answers; returns what ended.
std::vector<uint64_t> Take(const StepReport& report, std::map<uint64_t, Answer>& answers) {
  std::vector<uint64_t> ended;
  for (const RequestUpdate& u : report.updates) {
    Answer& answer = answers[u.id];
    EXPECT_EQ(answer.num_ends, 0) << "an update of request " << u.id << " after its end";
    if (u.update.has_token) {
      answer.tokens.push_back(u.update.token.token);
      answer.logprobs.push_back(u.update.token.logprob);
    }
    if (!u.update.finished()) continue;
    answer.num_ends += 1;
    answer.error = u.update.error;
    ended.push_back(u.id);
  }
  return ended;
}

CommandSource From(CommandQueue& commands) {
  return [&commands](absl::Duration wait) { return commands.Take(wait); };
}

// Serves on `setup.num_ranks` threads; `on_step` may push. Every rank must end well.
void Serve(const RunSetup& setup, const ServingOptions& options, CommandQueue& commands, const StepObserver& on_step) {
  const auto ended = RunRanks(setup.num_ranks, absl::Seconds(60), [&](Transport& transport) -> absl::Status {
    TF_ASSIGN_OR_RETURN(const auto rank, StartEngine(transport, setup));
    return RunServingLoop(*rank->engine, From(commands), options, on_step);
  });
  for (size_t r = 0; r < ended.size(); ++r) EXPECT_TRUE(ended[r].ok()) << "rank " << r << ": " << ended[r];
}

// All requests, at most `concurrency` of them at a time.
std::map<uint64_t, Answer> ServeAll(const RunSetup& setup, const std::vector<Request>& requests, size_t concurrency,
                                    SchedulerStats* stats) {
  CommandQueue commands;
  std::map<uint64_t, Answer> answers;
  size_t next = 0, num_ended = 0;
  const auto push = [&] { commands.Push(AddCommand{1000 + next, requests[next]}), ++next; };
  while (next < std::min(concurrency, requests.size())) push();
  ServingOptions options;
  options.prefix_cache = setup.prefix_cache;
  Serve(setup, options, commands, [&](const StepReport& report) {
    for (size_t i = Take(report, answers).size(); i > 0; --i) {
      if (next < requests.size()) push();
      if (++num_ended == requests.size()) commands.Push(DrainCommand{});
    }
    *stats = report.scheduler;
    return absl::OkStatus();
  });
  return answers;
}

TEST(ServingLoop, MixedRequestsGetTheSameBytesWhateverRunsBesideThem) {
  SCOPED_TRACE(testing::Message() << "seed " << kMixedRequestsSeed);
  const std::vector<Request> requests = MixedRequests(200);
  RunSetup setup;
  setup.prefix_cache = PrefixCache::kOff;
  SchedulerStats stats;
  const auto want = ServeAll(setup, requests, 1, &stats);
  ASSERT_EQ(want.size(), requests.size());
  setup.engine.max_sequences_per_rank = 16;
  setup.engine.cache_tokens_per_rank = 512;
  for (const int num_ranks : {1, 3, 4}) {
    for (const size_t concurrency : {1, 8, 64}) {
      setup.num_ranks = num_ranks;
      setup.prefix_cache = num_ranks == 4 && concurrency == 64 ? PrefixCache::kOff : PrefixCache::kOn;
      SCOPED_TRACE(testing::Message() << num_ranks << " ranks, " << concurrency << " at a time");
      // One after the other takes long, and differs from one rank's by the rank alone.
      const size_t count = concurrency == 1 && num_ranks > 1 ? 40 : requests.size();
      const auto got = ServeAll(setup, {requests.begin(), requests.begin() + count}, concurrency, &stats);
      ASSERT_EQ(got.size(), count);
      for (const auto& [id, answer] : got) {
        EXPECT_TRUE(answer.error.ok()) << answer.error;
        EXPECT_EQ(answer.num_ends, 1);
        EXPECT_TRUE(SameBits(answer.tokens, want.at(id).tokens)) << "request " << id;
        EXPECT_TRUE(SameBits(answer.logprobs, want.at(id).logprobs)) << "request " << id;
      }
      EXPECT_EQ(stats.num_held_blocks, 0);
      EXPECT_EQ(stats.prefix_hit_tokens > 0, setup.prefix_cache == PrefixCache::kOn);
      if (concurrency == 64) {
        EXPECT_GT(stats.num_preemptions, 0);
      }
    }
  }
}

TEST(ServingLoop, ABadRequestIsAnsweredAndTheOthersGoOn) {
  CommandQueue commands;
  Request too_long = MixedRequests(1)[0];
  too_long.max_new_tokens = 1 << 20;
  Request unknown_token = MixedRequests(1)[0];
  unknown_token.prompt[0] = 1 << 20;
  commands.Push(AddCommand{1, MixedRequests(1)[0]});
  commands.Push(AddCommand{2, too_long});
  commands.Push(AddCommand{3, unknown_token});
  commands.Push(AddCommand{1, MixedRequests(1)[0]});  // runs already
  commands.Push(CancelCommand{77});
  commands.Push(DrainCommand{});
  commands.Push(AddCommand{4, MixedRequests(1)[0]});
  std::map<uint64_t, std::vector<absl::Status>> ends;
  Serve({.num_ranks = 2}, {}, commands, [&](const StepReport& report) {
    for (const RequestUpdate& u : report.updates) {
      if (u.update.finished()) ends[u.id].push_back(u.update.error);
    }
    return absl::OkStatus();
  });
  ASSERT_EQ(ends[1].size(), 2u);
  EXPECT_THAT(std::string(ends[1][0].message()), HasSubstr("request 1 runs already"));
  EXPECT_TRUE(ends[1][1].ok());
  ASSERT_EQ(ends[2].size(), 1u);
  EXPECT_TRUE(absl::IsResourceExhausted(ends[2][0])) << ends[2][0];
  ASSERT_EQ(ends[3].size(), 1u);
  EXPECT_TRUE(absl::IsInvalidArgument(ends[3][0])) << ends[3][0];
  ASSERT_EQ(ends[4].size(), 1u);
  EXPECT_TRUE(absl::IsUnavailable(ends[4][0])) << ends[4][0];
}

// A client that has gone: from the command to the report that has its blocks free again.
TEST(ServingLoop, ACancelledSequenceHasFreedItsBlocksWithinTwoSteps) {
  CommandQueue commands;
  Request request = MixedRequests(2)[1];
  request.max_new_tokens = 100;
  constexpr int kTimes = 50;
  int num_cancelled = 0;
  int64_t cancelled_at = -1;
  std::vector<int64_t> steps;
  commands.Push(AddCommand{0, request});
  int64_t num_stats = 0;
  const ServingOptions options{.heartbeat = absl::Milliseconds(20), .stats_period = absl::InfiniteDuration()};
  Serve({.num_ranks = 3}, options, commands, [&](const StepReport& report) {
    num_stats += report.rank_stats.empty() ? 0 : 1;
    if (cancelled_at < 0 && report.scheduler.num_held_blocks > 0 && report.num_steps % 3 == 0) {
      commands.Push(CancelCommand{static_cast<uint64_t>(num_cancelled)});
      cancelled_at = report.num_steps;
    } else if (cancelled_at >= 0) {
      EXPECT_TRUE(report.updates.empty());
      if (report.scheduler.num_held_blocks > 0) return absl::OkStatus();
      steps.push_back(report.num_steps - cancelled_at);
      cancelled_at = -1;
      if (++num_cancelled == kTimes) {
        commands.Push(DrainCommand{});
      } else {
        commands.Push(AddCommand{static_cast<uint64_t>(num_cancelled), request});
      }
    }
    return absl::OkStatus();
  });
  EXPECT_EQ(num_stats, 1);  // once a period, the first time at once
  ASSERT_EQ(steps.size(), static_cast<size_t>(kTimes));
  EXPECT_LE(*std::max_element(steps.begin(), steps.end()), 2);
  RecordProperty("most_steps", static_cast<int>(*std::max_element(steps.begin(), steps.end())));
}

TEST(ServingLoop, IdleRanksAnswerHeartbeatsAndReportWhatTheyDid) {
  CommandQueue commands;
  int64_t num_idle = 0, num_stats = 0;
  std::vector<RankStats> last;
  commands.Push(AddCommand{1, MixedRequests(1)[0]});
  const ServingOptions options{.heartbeat = absl::Milliseconds(20), .stats_period = absl::Milliseconds(50)};
  Serve({.num_ranks = 3}, options, commands, [&](const StepReport& report) {
    num_idle += report.scheduler.num_running == 0 ? 1 : 0;
    if (!report.rank_stats.empty()) num_stats += 1, last = report.rank_stats;
    if (num_idle == 20) commands.Push(DrainCommand{});
    return absl::OkStatus();
  });
  EXPECT_GE(num_idle, 20);
  EXPECT_GE(num_stats, 2);
  ASSERT_EQ(last.size(), 3u);
  int64_t rows = 0;
  for (const RankStats& rank : last) {
    EXPECT_EQ(rank.bytes_sent_per_rank.size(), 3u);
    EXPECT_EQ(rank.wait_seconds_per_rank.size(), 3u);
    for (const int64_t n : rank.rows_per_slot) rows += n;
  }
  // Every token of the request passed four experts in each of four MoE layers.
  const Request request = MixedRequests(1)[0];
  EXPECT_EQ(rows, static_cast<int64_t>(request.prompt.size() + request.max_new_tokens - 1) * 4 * 4);
}

// Also without traffic: the heartbeat finds that a rank does not answer.
TEST(ServingLoop, ARankThatHasGoneIsFoundWhileIdle) {
  CommandQueue commands;
  const auto ended = RunRanks(3, Slack(absl::Seconds(2)), [&](Transport& transport) -> absl::Status {
    TF_ASSIGN_OR_RETURN(const auto rank, StartEngine(transport, {.num_ranks = 3}));
    if (transport.rank() == RankId(2)) {
      for (int i = 0; i < 3; ++i) TF_RETURN_IF_ERROR(rank->engine->Step(nullptr, nullptr).status());
      return absl::OkStatus();  // without a word
    }
    return RunServingLoop(*rank->engine, From(commands), {.heartbeat = absl::Milliseconds(20)},
                          [](const StepReport&) { return absl::OkStatus(); });
  });
  EXPECT_FALSE(ended[0].ok());
  EXPECT_FALSE(ended[1].ok());
  EXPECT_TRUE(absl::IsDeadlineExceeded(ended[0])) << ended[0];
  EXPECT_THAT(std::string(ended[0].message()), HasSubstr("rank 0 waits for rank 2"));
}

TEST(ServingLoop, EndsWhenAskedToStop) {
  CommandQueue commands;
  Request request = MixedRequests(1)[0];
  request.max_new_tokens = 200;
  commands.Push(AddCommand{1, request});
  const auto ended = RunRanks(2, absl::Seconds(60), [&](Transport& transport) -> absl::Status {
    TF_ASSIGN_OR_RETURN(const auto rank, StartEngine(transport, {.num_ranks = 2}));
    return RunServingLoop(*rank->engine, From(commands), {}, [](const StepReport& report) {
      if (report.num_steps == 3) RequestStop();
      return absl::OkStatus();
    });
  });
  ClearStopRequest();
  for (const absl::Status& status : ended) EXPECT_TRUE(absl::IsCancelled(status)) << status;
}

TEST(ServingLoop, EndsOnAllRanksWhenItsCommandsEnd) {
  int num_calls = 0;
  const CommandSource source = [&](absl::Duration) -> absl::StatusOr<std::vector<Command>> {
    if (++num_calls < 5) return std::vector<Command>{AddCommand{static_cast<uint64_t>(num_calls), MixedRequests(1)[0]}};
    return absl::UnavailableError("the front has gone");
  };
  const auto ended = RunRanks(3, absl::Seconds(60), [&](Transport& transport) -> absl::Status {
    TF_ASSIGN_OR_RETURN(const auto rank, StartEngine(transport, {.num_ranks = 3}));
    return RunServingLoop(*rank->engine, source, {}, [](const StepReport&) { return absl::OkStatus(); });
  });
  for (const absl::Status& status : ended) {
    EXPECT_TRUE(absl::IsUnavailable(status)) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("the front has gone"));
  }
}

TEST(ServingLoop, EndsOnAllRanksWhenItsObserverFails) {
  CommandQueue commands;
  commands.Push(AddCommand{1, MixedRequests(1)[0]});
  const auto ended = RunRanks(3, absl::Seconds(60), [&](Transport& transport) -> absl::Status {
    TF_ASSIGN_OR_RETURN(const auto rank, StartEngine(transport, {.num_ranks = 3}));
    return RunServingLoop(*rank->engine, From(commands), {}, [](const StepReport& report) -> absl::Status {
      return report.num_steps == 2 ? absl::ResourceExhaustedError("the disk is full") : absl::OkStatus();
    });
  });
  for (const absl::Status& status : ended) {
    EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
    EXPECT_EQ(status.message(), "rank 0: the disk is full");
  }
}

TEST(CommandQueue, TakeWaitsForTheFirstCommandOnly) {
  CommandQueue commands;
  EXPECT_TRUE(commands.Take(absl::Milliseconds(1)).empty());
  std::thread other([&] { commands.Push(CancelCommand{3}); });
  const auto taken = commands.Take(absl::Seconds(60));
  other.join();
  ASSERT_EQ(taken.size(), 1u);
  EXPECT_EQ(std::get<CancelCommand>(taken[0]).id, 3u);
  EXPECT_TRUE(commands.Take(absl::ZeroDuration()).empty());
}

}  // namespace
}  // namespace tokenferry

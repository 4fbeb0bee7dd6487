// A sequence gets the same tokens, with the same log-probabilities bit for bit, whether its cache was taken away and
// computed again, found where others had left it, or its own all the time; for any number of ranks.
#include <gtest/gtest.h>

#include "tests/runtime/engine/engine_runner.h"
#include "tests/runtime/engine/mixed_requests.h"
#include "tests/support/device_cases.h"

namespace tokenferry {
namespace {

constexpr int64_t kTopK = 4;  // of models/ferry-tiny-v3

void ExpectSame(const std::vector<RunResult>& got, const std::vector<RunResult>& want) {
  ASSERT_EQ(got.size(), want.size());
  for (size_t i = 0; i < want.size(); ++i) {
    ASSERT_FALSE(want[i].tokens.empty()) << i;
    EXPECT_TRUE(SameBits(got[i].tokens, want[i].tokens)) << "request " << i;
    EXPECT_TRUE(SameBits(got[i].logprobs, want[i].logprobs)) << "request " << i;
  }
}

// Each in turn, on one rank with room for it alone, from an empty cache.
const std::vector<RunResult>& Expected(const std::vector<Request>& requests) {
  static const auto* results = [&] {
    RunSetup setup;
    setup.engine.max_sequences_per_rank = 1;
    setup.engine.cache_tokens_per_rank = 256;
    setup.prefix_cache = PrefixCache::kOff;
    const RunOutcome run = RunAndCount(setup, requests);
    EXPECT_EQ(run.scheduler.num_preemptions + run.scheduler.prefix_hit_tokens, 0);
    return new std::vector<RunResult>(run.results);
  }();
  return *results;
}

TEST(Replay, PreemptionAndPrefixCacheChangeNoBit) {
  SCOPED_TRACE(testing::Message() << "seed " << kMixedRequestsSeed);
  const std::vector<Request> requests = MixedRequests(30);
  for (const int num_ranks : {1, 3, 4}) {
    for (const PrefixCache prefix_cache : {PrefixCache::kOff, PrefixCache::kOn}) {
      SCOPED_TRACE(testing::Message() << num_ranks << " ranks, prefix cache " << static_cast<int>(prefix_cache));
      RunSetup setup;
      setup.num_ranks = num_ranks;
      setup.engine.prefill_chunk = 100;
      setup.engine.max_sequences_per_rank = 8;
      setup.engine.cache_tokens_per_rank = 448;  // a third of what eight of them need
      setup.prefix_cache = prefix_cache;
      const RunOutcome run = RunAndCount(setup, requests);
      ExpectSame(run.results, Expected(requests));
      EXPECT_GT(run.scheduler.num_preemptions, 0);
      EXPECT_GT(run.scheduler.num_replays, 0);
      EXPECT_EQ(run.scheduler.prefix_hit_tokens > 0, prefix_cache == PrefixCache::kOn);
      EXPECT_EQ(run.scheduler.num_held_blocks, 0);
    }
  }
}

// As after a restart: what had been generated comes with the request.
TEST(Replay, GoesOnBehindAnyToken) {
  std::vector<Request> requests = MixedRequests(30), cut;
  std::vector<RunResult> want;
  for (size_t i = 0; i < requests.size(); ++i) {
    const RunResult& whole = Expected(requests)[i];
    if (whole.tokens.size() < 2) continue;
    const auto at = static_cast<int64_t>(1 + i * 7 % (whole.tokens.size() - 1));
    cut.push_back(requests[i]);
    cut.back().output.assign(whole.tokens.begin(), whole.tokens.begin() + at);
    want.emplace_back();
    want.back().tokens.assign(whole.tokens.begin() + at, whole.tokens.end());
    want.back().logprobs.assign(whole.logprobs.begin() + at, whole.logprobs.end());
  }
  RunSetup setup;
  setup.num_ranks = 3;
  ExpectSame(RunLocally(setup, cut), want);
}

// What comes beside the tokens: scores and likeliest tokens of the prompt, experts of each token; also when preempted.
TEST(Replay, ScoresAndRoutingComeOnceForEveryToken) {
  std::vector<Request> requests = MixedRequests(12);
  std::vector<RunResult> want;
  for (Request& r : requests) {
    want.push_back(RunLocally({}, {ScoreRequest(r.prompt)})[0]);
    r.prompt_scores = r.routing = Wanted::kYes;
    r.sampling.num_top_logprobs = 2;
  }
  RunSetup setup;
  setup.num_ranks = 2;
  setup.engine.prefill_chunk = 48;
  setup.engine.cache_tokens_per_rank = 320;
  const RunOutcome run = RunAndCount(setup, requests);
  EXPECT_GT(run.scheduler.num_preemptions, 0);
  for (size_t i = 0; i < requests.size(); ++i) {
    EXPECT_EQ(run.results[i].nll, want[i].nll) << i;
    EXPECT_EQ(run.results[i].num_scored, want[i].num_scored) << i;
    EXPECT_EQ(run.results[i].num_top, 2 * want[i].num_scored) << i;
    // The experts of the token before each generated one, as a run over the whole text has them: [L, S, K].
    std::vector<int32_t> text = requests[i].prompt;
    text.insert(text.end(), run.results[i].tokens.begin(), run.results[i].tokens.end());
    const RunResult whole = RunLocally({}, {LogitsRequest(text)})[0];
    const auto S = static_cast<int64_t>(text.size()), K = kTopK;
    const int64_t L = static_cast<int64_t>(whole.expert_idx.size()) / (S * K);
    std::vector<int32_t> experts;
    for (auto t = static_cast<int64_t>(requests[i].prompt.size()) - 1; t < S - 1; ++t) {
      for (int64_t l = 0; l < L; ++l) {
        const auto row = whole.expert_idx.begin() + (l * S + t) * K;
        experts.insert(experts.end(), row, row + K);
      }
    }
    EXPECT_EQ(run.results[i].token_experts, experts) << i;
  }
}

}  // namespace
}  // namespace tokenferry

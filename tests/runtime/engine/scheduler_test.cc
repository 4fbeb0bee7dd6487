#include "runtime/engine/scheduler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace tokenferry {
namespace {

using testing::HasSubstr;

Request Generate(int prompt_tokens, int max_new_tokens) {
  Request r;
  for (int i = 0; i < prompt_tokens; ++i) r.prompt.push_back(i + 1);
  r.max_new_tokens = max_new_tokens;
  return r;
}

// Answers a plan as an engine whose every sampled token is 900 + seq would.
std::vector<EntryResult> Answer(const StepPlan& plan) {
  std::vector<EntryResult> results;
  for (const StepEntry& e : plan.entries) {
    EntryResult r;
    r.seq = e.seq;
    r.sampled.token = 900 + e.seq;
    r.logprobs.assign(e.targets.size(), -1);
    results.push_back(r);
  }
  return results;
}

std::vector<SequenceUpdate> Turn(Scheduler& s, StepPlan& plan) {
  plan = s.Next();
  auto updates = s.Accept(Answer(plan));
  EXPECT_TRUE(updates.ok()) << updates.status();
  return *updates;
}

TEST(Scheduler, PrefillsInChunksThenDecodesOneTokenAStep) {
  Scheduler s({.num_ranks = 3, .prefill_chunk = 4});
  ASSERT_EQ(*s.Add(Generate(10, 2)), 0);
  StepPlan plan;
  EXPECT_TRUE(Turn(s, plan).empty());
  EXPECT_EQ(plan.entries[0].tokens, (std::vector<int32_t>{1, 2, 3, 4}));
  EXPECT_EQ(plan.entries[0].rank, RankId(0));
  EXPECT_EQ(plan.started.size(), 1u);
  EXPECT_TRUE(Turn(s, plan).empty());
  EXPECT_EQ(plan.entries[0].position, 4);
  auto updates = Turn(s, plan);
  EXPECT_EQ(plan.entries[0].tokens, (std::vector<int32_t>{9, 10}));
  ASSERT_EQ(updates.size(), 1u);
  EXPECT_EQ(updates[0].token.token, 900);
  EXPECT_FALSE(updates[0].finished());
  updates = Turn(s, plan);
  EXPECT_EQ(plan.entries[0].tokens, (std::vector<int32_t>{900}));
  EXPECT_EQ(plan.entries[0].position, 10);
  EXPECT_TRUE(updates[0].finished());
  EXPECT_TRUE(s.idle());
  EXPECT_EQ(s.Next().released, (std::vector<int32_t>{0}));
}

TEST(Scheduler, SpreadsSequencesOverRanksAndOrdersEntriesByRank) {
  Scheduler s({.num_ranks = 2, .prefill_chunk = 100});
  for (int i = 0; i < 5; ++i) ASSERT_TRUE(s.Add(Generate(3, 1)).ok());
  const StepPlan plan = s.Next();
  std::vector<int> ranks;
  for (const auto& e : plan.entries) ranks.push_back(e.rank.value);
  EXPECT_EQ(ranks, (std::vector<int>{0, 0, 0, 1, 1}));
  EXPECT_EQ(plan.num_tokens(), 15);
  EXPECT_EQ(plan.max_tokens_per_rank(2), 9);
}

TEST(Scheduler, TheChunkIsABudgetOfTheRank) {
  Scheduler s({.num_ranks = 1, .prefill_chunk = 5});
  ASSERT_TRUE(s.Add(Generate(3, 4)).ok());
  ASSERT_TRUE(s.Add(Generate(6, 4)).ok());
  StepPlan plan;
  Turn(s, plan);
  EXPECT_EQ(plan.num_tokens(), 5);
  Turn(s, plan);  // one decoding token of sequence 0, four prompt tokens of sequence 1
  EXPECT_EQ(plan.num_tokens(), 5);
  EXPECT_EQ(plan.entries[0].want, Want::kToken);
  EXPECT_EQ(plan.entries[1].tokens.size(), 4u);
}

TEST(Scheduler, WaitsForCacheInOrderOfArrival) {
  Scheduler s({.num_ranks = 1, .cache_tokens_per_rank = 128});
  ASSERT_TRUE(s.Add(Generate(70, 10)).ok());  // two blocks: all there are
  ASSERT_TRUE(s.Add(Generate(1, 1)).ok());
  StepPlan plan;
  Turn(s, plan);
  ASSERT_EQ(plan.started.size(), 1u);
  EXPECT_EQ(plan.started[0].blocks, (std::vector<int32_t>{0, 1}));
  EXPECT_EQ(s.stats().num_waiting, 1);
  EXPECT_EQ(s.stats().num_held_blocks, 2);
  s.Finish(0);
  EXPECT_EQ(s.stats().num_held_blocks, 0);
  Turn(s, plan);
  EXPECT_EQ(plan.released, (std::vector<int32_t>{0}));
  ASSERT_EQ(plan.started.size(), 1u);
  EXPECT_EQ(plan.started[0].seq, 1);
  EXPECT_EQ(plan.started[0].blocks.size(), 1u);
}

TEST(Scheduler, BlocksComeAsASequenceGrows) {
  Scheduler s({.num_ranks = 1, .cache_tokens_per_rank = 256});
  ASSERT_TRUE(s.Add(Generate(63, 70)).ok());
  StepPlan plan;
  Turn(s, plan);
  EXPECT_EQ(plan.started[0].blocks.size(), 1u);
  std::vector<int64_t> grown_at;
  while (!s.idle()) {
    Turn(s, plan);
    if (plan.entries[0].blocks.empty()) continue;
    grown_at.push_back(plan.entries[0].position);
    EXPECT_EQ(plan.entries[0].first_block, plan.entries[0].position / 64);
    EXPECT_EQ(plan.entries[0].blocks.size(), 1u);
  }
  EXPECT_EQ(grown_at, (std::vector<int64_t>{64, 128}));
}

// Every sequence's tokens so far, as its rank knows them: put together from the plans.
class Replica {
 public:
  void Apply(const StepPlan& plan) {
    for (const int32_t seq : plan.released) texts_.erase(seq);
    for (const NewSequence& started : plan.started) {
      EXPECT_FALSE(texts_.contains(started.seq));
      texts_[started.seq] = started.cached_tokens;
      EXPECT_EQ(started.cached_tokens.size() % 64, 0u);
    }
    for (const StepEntry& e : plan.entries) {
      std::vector<int32_t>& text = texts_.at(e.seq);
      EXPECT_EQ(static_cast<int64_t>(text.size()), e.position);
      text.insert(text.end(), e.tokens.begin(), e.tokens.end());
    }
  }
  const std::vector<int32_t>& text(int32_t seq) const { return texts_.at(seq); }

 private:
  std::map<int32_t, std::vector<int32_t>> texts_;
};

TEST(Scheduler, WhenFullTheYoungestIsPreemptedAndReplayed) {
  Scheduler s({.num_ranks = 1, .cache_tokens_per_rank = 192, .prefix_cache = PrefixCache::kOff});
  ASSERT_TRUE(s.Add(Generate(60, 80)).ok());  // three blocks in the end
  ASSERT_TRUE(s.Add(Generate(100, 3)).ok());  // two
  Replica replica;
  StepPlan plan;
  bool preempted = false;
  int32_t last = 0;
  std::map<int32_t, int> num_tokens;
  ASSERT_TRUE(s.Add(Generate(100, 50)).ok());  // two; starts when the second one has ended
  while (!s.idle()) {
    const auto updates = Turn(s, plan);
    replica.Apply(plan);
    for (const int32_t seq : plan.released) preempted |= seq == 2 && num_tokens[2] < 50;
    for (const auto& u : updates) {
      num_tokens[u.seq] += 1;
      last = u.seq;
      if (u.seq == 0) {
        EXPECT_EQ(replica.text(0).size(), 59u + num_tokens[0]);
      }
    }
  }
  EXPECT_TRUE(preempted);
  EXPECT_EQ(s.stats().num_preemptions, 1);
  EXPECT_EQ(s.stats().num_replays, 1);
  EXPECT_EQ(num_tokens, (std::map<int32_t, int>{{0, 80}, {1, 3}, {2, 50}}));
  EXPECT_EQ(last, 2);
}

TEST(Scheduler, TheOldestAlwaysAdvances) {
  Scheduler s({.num_ranks = 1, .cache_tokens_per_rank = 320, .prefix_cache = PrefixCache::kOff});
  for (int i = 0; i < 5; ++i) ASSERT_TRUE(s.Add(Generate(30, 250)).ok());
  StepPlan plan;
  int32_t oldest = 0;
  while (!s.idle()) {
    const auto updates = Turn(s, plan);
    ASSERT_FALSE(updates.empty());
    ASSERT_EQ(updates[0].seq, oldest);
    if (updates[0].finished()) ++oldest;
  }
  EXPECT_EQ(oldest, 5);
  EXPECT_GT(s.stats().num_preemptions, 0);
  EXPECT_EQ(s.stats().num_held_blocks, 0);
}

TEST(Scheduler, ABeginningThatWasComputedIsNotComputedAgain) {
  Scheduler s({.num_ranks = 2, .prefill_chunk = 1000});
  ASSERT_TRUE(s.Add(Generate(200, 1)).ok());
  StepPlan plan;
  Turn(s, plan);
  Request longer = Generate(200, 3);
  for (int i = 0; i < 30; ++i) longer.prompt.push_back(5000 + i);
  ASSERT_TRUE(s.Add(longer).ok());
  auto updates = Turn(s, plan);
  ASSERT_EQ(plan.started.size(), 1u);
  EXPECT_EQ(plan.started[0].rank, RankId(0));  // where the beginning is
  EXPECT_EQ(plan.started[0].cached_tokens, (std::vector<int32_t>(longer.prompt.begin(), longer.prompt.begin() + 192)));
  EXPECT_EQ(plan.entries[0].position, 192);
  EXPECT_EQ(plan.entries[0].tokens.size(), 38u);
  EXPECT_EQ(updates[0].num_cached_tokens, 192);
  EXPECT_EQ(s.stats().prefix_query_tokens, 430);
  EXPECT_EQ(s.stats().prefix_hit_tokens, 192);
  // The last token of a prompt is always computed: what follows it is wanted.
  while (!s.idle()) Turn(s, plan);
  ASSERT_TRUE(s.Add(Generate(192, 1)).ok());
  Turn(s, plan);
  EXPECT_EQ(plan.entries[0].position, 128);
}

TEST(Scheduler, WhoWantsMoreThanTokensOrHasAnotherScopeComputesAll) {
  Scheduler s({.num_ranks = 1, .prefill_chunk = 1000});
  ASSERT_TRUE(s.Add(Generate(200, 1)).ok());
  StepPlan plan;
  Turn(s, plan);
  std::vector<Request> requests(5, Generate(200, 1));
  requests[0].cache_scope = "key b";
  requests[1].routing = Wanted::kYes;
  requests[2].prompt_scores = Wanted::kYes;
  requests[3] = Generate(200, 0);
  requests[3].kind = RequestKind::kScore;
  for (const Request& r : requests) ASSERT_TRUE(s.Add(r).ok());
  Turn(s, plan);
  ASSERT_EQ(plan.entries.size(), 5u);
  for (int i = 0; i < 4; ++i) EXPECT_EQ(plan.entries[i].position, 0) << i;
  EXPECT_EQ(plan.entries[4].position, 192);
  EXPECT_EQ(plan.entries[1].routing, Wanted::kYes);
  EXPECT_EQ(plan.entries[2].want, Want::kToken);
  EXPECT_EQ(plan.entries[2].targets.size(), 199u);
}

// Two that start together compute the same; from the next step on they share, and the plan says so.
TEST(Scheduler, EqualBlocksBecomeOne) {
  Scheduler s({.num_ranks = 1, .prefill_chunk = 1000});
  ASSERT_TRUE(s.Add(Generate(130, 5)).ok());
  ASSERT_TRUE(s.Add(Generate(130, 5)).ok());
  StepPlan plan;
  Turn(s, plan);
  const std::vector<int32_t> first = plan.started[0].blocks, second = plan.started[1].blocks;
  EXPECT_EQ(s.stats().num_held_blocks, 4);
  Turn(s, plan);
  EXPECT_TRUE(plan.entries[0].blocks.empty());
  EXPECT_EQ(plan.entries[1].first_block, 0);
  EXPECT_EQ(plan.entries[1].blocks, (std::vector<int32_t>{first[0], first[1], second[2]}));
}

TEST(Scheduler, ARequestGoesOnWhereItsOutputEnds) {
  Scheduler s({.num_ranks = 1});
  Request r = Generate(10, 5);
  r.output = {70, 71};
  ASSERT_TRUE(s.Add(r).ok());
  StepPlan plan;
  auto updates = Turn(s, plan);
  EXPECT_EQ(plan.started[0].num_prompt_tokens, 10);
  EXPECT_EQ(plan.entries[0].tokens.size(), 12u);
  EXPECT_EQ(plan.entries[0].tokens.back(), 71);
  Turn(s, plan);
  EXPECT_EQ(plan.entries[0].position, 12);
  EXPECT_TRUE(Turn(s, plan)[0].finished());  // three more, not five
  EXPECT_EQ(s.stats().num_replays, 1);
  r.output.resize(5);
  EXPECT_THAT(std::string(s.Add(r).status().message()), HasSubstr("5 have been generated already"));
}

TEST(Scheduler, PromptsShareTheBudget) {
  Scheduler s({.num_ranks = 1, .prefill_chunk = 300, .cache_tokens_per_rank = 1 << 20});
  ASSERT_TRUE(s.Add(Generate(10000, 1)).ok());
  for (int i = 0; i < 2; ++i) ASSERT_TRUE(s.Add(Generate(80, 1)).ok());
  StepPlan plan;
  Turn(s, plan);
  ASSERT_EQ(plan.entries.size(), 3u);
  EXPECT_EQ(plan.entries[0].tokens.size(), 100u);
  EXPECT_EQ(plan.entries[1].tokens.size(), 80u);
  EXPECT_EQ(plan.entries[2].tokens.size(), 80u);
  EXPECT_EQ(s.stats().num_running, 1);
}

TEST(Scheduler, ARankThatIsFarAheadIsNotPreferredForAPrefix) {
  Scheduler s({.num_ranks = 2, .prefill_chunk = 10000, .cache_tokens_per_rank = 1 << 20});
  ASSERT_TRUE(s.Add(Generate(200, 1)).ok());
  StepPlan plan;
  Turn(s, plan);
  for (int i = 0; i < 20; ++i) ASSERT_TRUE(s.Add(Generate(200, 100)).ok());
  Turn(s, plan);
  int64_t on_first = 0;
  for (const NewSequence& started : plan.started) on_first += started.rank == RankId(0) ? 1 : 0;
  EXPECT_GE(on_first, 10);
  EXPECT_LE(on_first, 13);
}

TEST(Scheduler, RefusesWhatCanNeverRun) {
  Scheduler s({.num_ranks = 2, .cache_tokens_per_rank = 128});
  EXPECT_THAT(std::string(s.Add(Generate(0, 1)).status().message()), HasSubstr("prompt is empty"));
  EXPECT_THAT(std::string(s.Add(Generate(1, 0)).status().message()), HasSubstr("max-tokens is 0"));
  EXPECT_THAT(std::string(s.Add(Generate(120, 9)).status().message()),
              HasSubstr("needs 3 cache blocks of 64 tokens, but a rank has 2"));
  Scheduler small({.num_ranks = 1, .vocab_size = 10});
  EXPECT_THAT(std::string(small.Add(Generate(10, 1)).status().message()),
              HasSubstr("token 10, but the model's tokens"));
  Request request = Generate(3, 1);
  request.prompt[1] = -1;
  EXPECT_THAT(std::string(small.Add(request).status().message()), HasSubstr("token -1"));
  request = Generate(3, 1);
  request.sampling.stop_token_ids = {10};
  EXPECT_THAT(std::string(small.Add(request).status().message()), HasSubstr("stop-token-ids has token 10"));
  request.sampling = {.top_p = 0};
  EXPECT_THAT(std::string(small.Add(request).status().message()), HasSubstr("top-p is 0"));
  EXPECT_TRUE(s.idle() && small.idle());
}

TEST(Scheduler, ScoresEveryTokenButTheFirst) {
  Scheduler s({.num_ranks = 1, .prefill_chunk = 2});
  Request r = Generate(5, 0);
  r.kind = RequestKind::kScore;
  ASSERT_TRUE(s.Add(r).ok());
  StepPlan plan;
  std::vector<int32_t> targets;
  bool finished = false;
  while (!s.idle()) {
    for (const auto& u : Turn(s, plan)) finished = u.finished();
    targets.insert(targets.end(), plan.entries[0].targets.begin(), plan.entries[0].targets.end());
  }
  EXPECT_EQ(targets, (std::vector<int32_t>{2, 3, 4, 5}));
  EXPECT_TRUE(finished);
}

TEST(Scheduler, AStopTokenEndsASequence) {
  Scheduler s({.num_ranks = 1});
  Request stops = Generate(3, 5);
  stops.sampling.stop_token_ids = {7, 901};  // what Answer gives the second sequence
  ASSERT_TRUE(s.Add(stops).ok());
  ASSERT_TRUE(s.Add(stops).ok());
  StepPlan plan;
  const auto updates = Turn(s, plan);
  ASSERT_EQ(updates.size(), 2u);
  EXPECT_EQ(updates[0].end, SequenceEnd::kNotYet);
  EXPECT_EQ(updates[1].end, SequenceEnd::kStopToken);
  EXPECT_EQ(updates[1].token.token, 901);  // is part of the output
  EXPECT_EQ(s.Next().released, (std::vector<int32_t>{1}));
}

TEST(Scheduler, AnErrorEndsItsSequenceAlone) {
  Scheduler s({.num_ranks = 1});
  ASSERT_TRUE(s.Add(Generate(3, 2)).ok());
  ASSERT_TRUE(s.Add(Generate(3, 2)).ok());
  const StepPlan plan = s.Next();
  auto results = Answer(plan);
  results[0].error = absl::InternalError("logit of token 1 is NaN");
  const auto updates = s.Accept(results);
  ASSERT_TRUE(updates.ok()) << updates.status();
  EXPECT_EQ((*updates)[0].end, SequenceEnd::kError);
  EXPECT_FALSE((*updates)[0].has_token);
  EXPECT_EQ((*updates)[0].error, results[0].error);
  EXPECT_TRUE((*updates)[1].has_token);
  StepPlan next;
  EXPECT_TRUE(Turn(s, next)[0].finished());
  EXPECT_EQ(next.released, (std::vector<int32_t>{0}));
  EXPECT_TRUE(s.idle());
}

TEST(Scheduler, RefusesResultsThatAreNotThePlans) {
  Scheduler s({.num_ranks = 1});
  ASSERT_TRUE(s.Add(Generate(3, 2)).ok());
  StepPlan plan = s.Next();
  auto results = Answer(plan);
  results[0].seq = 5;
  EXPECT_THAT(std::string(s.Accept(results).status().message()), HasSubstr("result 0 is of sequence 5 instead of 0"));
  EXPECT_THAT(std::string(s.Accept({}).status().message()), HasSubstr("1 entries, but 0 results"));
}

TEST(Scheduler, FinishingAWaitingOrUnknownSequenceIsFine) {
  Scheduler s({.num_ranks = 1, .max_sequences_per_rank = 1});
  ASSERT_TRUE(s.Add(Generate(3, 2)).ok());
  ASSERT_TRUE(s.Add(Generate(3, 2)).ok());
  StepPlan plan;
  Turn(s, plan);
  s.Finish(1);
  s.Finish(77);
  s.Finish(0);
  EXPECT_TRUE(s.idle());
}

}  // namespace
}  // namespace tokenferry

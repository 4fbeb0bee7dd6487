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
  EXPECT_EQ(plan.num_tokens(RankId(1)), 6);
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
  ASSERT_TRUE(s.Add(Generate(60, 10)).ok());  // two blocks: all there are
  ASSERT_TRUE(s.Add(Generate(1, 1)).ok());
  StepPlan plan;
  Turn(s, plan);
  ASSERT_EQ(plan.started.size(), 1u);
  EXPECT_EQ(plan.started[0].blocks, (std::vector<int32_t>{0, 1}));
  s.Finish(0);
  Turn(s, plan);
  EXPECT_EQ(plan.released, (std::vector<int32_t>{0}));
  ASSERT_EQ(plan.started.size(), 1u);
  EXPECT_EQ(plan.started[0].seq, 1);
  EXPECT_EQ(plan.started[0].blocks.size(), 1u);
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

// What a sequence has besides its blocks: a rotation of LongRoPE, and a state.
#include <gtest/gtest.h>

#include <map>
#include <utility>

#include "runtime/engine/scheduler.h"

namespace tokenferry {
namespace {

// LongRoPE: how long a request may become fixes its rotation, before a token of it is computed; and where a sequence of
// the other rotation has computed the same tokens, nothing of it is used.
TEST(Scheduler, LongAndShortRotationsShareNoCache) {
  Scheduler s({.num_ranks = 1,
               .prefill_chunk = 1000,
               .rope = {.scaling = RopeScaling::kLongRope, .original_max_position = 210}});
  struct Case {
    int64_t max_new_tokens, num_generated;
    RopeFactors factors;
    int64_t position;  // of the first token that is computed
  };
  const Case cases[] = {
      {10, 0, RopeFactors::kShort, 0},
      {11, 0, RopeFactors::kLong, 0},
      {10, 0, RopeFactors::kShort, 192},
      {300, 0, RopeFactors::kLong, 192},
      {11, 10, RopeFactors::kLong, 192}};  // as after a restart: its output is a part of what it may have
  for (const Case& c : cases) {
    Request r{.max_new_tokens = c.max_new_tokens};
    for (int i = 0; i < 200; ++i) r.prompt.push_back(i + 1);
    r.output.assign(static_cast<size_t>(c.num_generated), 77);
    ASSERT_TRUE(s.Add(r).ok());
    for (bool is_first = true; !s.idle(); is_first = false) {
      const StepPlan plan = s.Next();
      ASSERT_EQ(plan.entries.size(), 1u);
      if (is_first) {
        ASSERT_EQ(plan.started.size(), 1u);
        EXPECT_EQ(plan.started[0].rope_factors, c.factors) << c.max_new_tokens;
        EXPECT_EQ(plan.entries[0].position, c.position) << c.max_new_tokens;
      }
      EntryResult result{.seq = plan.entries[0].seq};
      result.sampled.token = 900;
      ASSERT_TRUE(s.Accept({result}).ok());
    }
  }
}

// As many states as sequences may run on a rank; and nothing of another sequence's cache, which has no state.
TEST(Scheduler, ASequenceHasAStateOfItsRankAsLongAsItRuns) {
  Scheduler s({.num_ranks = 2, .prefill_chunk = 1000, .max_sequences_per_rank = 2, .has_states = true});
  for (int i = 0; i < 7; ++i) {
    Request r{.max_new_tokens = 1 + i % 2};
    r.prompt.assign(130, 7);
    ASSERT_TRUE(s.Add(r).ok());
  }
  std::map<int32_t, std::pair<int, int32_t>> running;  // rank and state, by sequence
  int64_t num_started = 0;
  while (!s.idle()) {
    const StepPlan plan = s.Next();
    for (const int32_t seq : plan.released) running.erase(seq);
    for (const NewSequence& started : plan.started) {
      ++num_started;
      EXPECT_TRUE(started.cached_tokens.empty());  // though all prompts are the same
      EXPECT_TRUE(started.state == 0 || started.state == 1) << started.state;
      for (const auto& [seq, at] : running) EXPECT_NE(at, std::pair(started.rank.value, started.state)) << seq;
      running[started.seq] = {started.rank.value, started.state};
    }
    std::vector<EntryResult> results;
    for (const StepEntry& e : plan.entries) results.push_back({.seq = e.seq});
    ASSERT_TRUE(s.Accept(std::move(results)).ok());
  }
  EXPECT_EQ(num_started, 7);
  EXPECT_EQ(s.stats().prefix_hit_tokens, 0);
}

}  // namespace
}  // namespace tokenferry

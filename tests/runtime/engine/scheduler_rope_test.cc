// Which rotation of LongRoPE a request gets.
#include <gtest/gtest.h>

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

}  // namespace
}  // namespace tokenferry

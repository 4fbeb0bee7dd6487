#include "runtime/engine/prefill_budget.h"

#include <gtest/gtest.h>

namespace tokenferry {
namespace {

// A machine whose steps take a + c n.
absl::Duration Took(int64_t num_tokens) { return absl::Milliseconds(20) + absl::Microseconds(500) * num_tokens; }

TEST(PrefillBudget, WithoutATargetIsTheWholeChunk) {
  PrefillBudget budget(500, absl::InfiniteDuration());
  EXPECT_EQ(budget.tokens_per_rank(), 500);
  budget.Observe(500, 0, absl::Seconds(10));
  EXPECT_EQ(budget.tokens_per_rank(), 500);
}

TEST(PrefillBudget, FindsTheChunkThatTakesTheTargetFromBothSides) {
  for (const bool slow_at_first : {false, true}) {
    PrefillBudget budget(4096, absl::Milliseconds(200));
    EXPECT_EQ(budget.tokens_per_rank(), 64);
    for (int i = 0; !slow_at_first && i < 3; ++i) {  // a machine that was faster
      const int64_t before = budget.tokens_per_rank();
      budget.Observe(before, 0, absl::Microseconds(1));
      EXPECT_EQ(budget.tokens_per_rank(), 2 * before);
    }
    for (int i = 0; i < 60; ++i) budget.Observe(budget.tokens_per_rank() + 8, 8, Took(budget.tokens_per_rank() + 8));
    // 20 ms + 0.5 ms * (n + 8) = 200 ms.
    EXPECT_NEAR(static_cast<double>(budget.tokens_per_rank()), 352, 2);
  }
}

TEST(PrefillBudget, StaysWithinItsBounds) {
  PrefillBudget budget(100, absl::Milliseconds(200));
  for (int i = 0; i < 20; ++i) budget.Observe(budget.tokens_per_rank(), 0, absl::Nanoseconds(1));
  EXPECT_EQ(budget.tokens_per_rank(), 100);
  for (int i = 0; i < 20; ++i) budget.Observe(budget.tokens_per_rank(), 0, absl::Seconds(100));
  EXPECT_EQ(budget.tokens_per_rank(), 64);
  EXPECT_EQ(PrefillBudget(10, absl::Milliseconds(200)).tokens_per_rank(), 10);
}

TEST(PrefillBudget, ShortPromptsSayNothing) {
  PrefillBudget budget(4096, absl::Milliseconds(200));
  budget.Observe(64, 0, absl::Milliseconds(1));
  const int64_t before = budget.tokens_per_rank();
  budget.Observe(1, 0, absl::Milliseconds(100));  // one token of a prompt: mostly the fixed cost of a step
  budget.Observe(30, 30, absl::Milliseconds(100));
  EXPECT_EQ(budget.tokens_per_rank(), before);
}

}  // namespace
}  // namespace tokenferry

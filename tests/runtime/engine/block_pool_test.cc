#include "runtime/engine/block_pool.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>
#include <set>

#include "runtime/attention/attention_ops.h"

namespace tokenferry {
namespace {

using testing::ElementsAre;

TEST(CacheBlocks, CoverTheTokens) {
  EXPECT_EQ(CacheBlocks(0), 0);
  EXPECT_EQ(CacheBlocks(1), 1);
  EXPECT_EQ(CacheBlocks(64), 1);
  EXPECT_EQ(CacheBlocks(65), 2);
  EXPECT_EQ(CacheBlocks(INT64_MAX), INT64_MAX / 64 + 1);
}

TEST(BlockPool, GivesOutWhatIsFree) {
  BlockPool pool(6);
  EXPECT_THAT(pool.Take(0), ElementsAre());
  const std::vector<int32_t> a = pool.Take(2), b = pool.Take(3);
  EXPECT_THAT(a, ElementsAre(0, 1));
  EXPECT_THAT(b, ElementsAre(2, 3, 4));
  EXPECT_EQ(pool.num_free(), 1);
  pool.Return(a);
  EXPECT_EQ(pool.num_free(), 3);
  EXPECT_THAT(pool.Take(3), ElementsAre(0, 1, 5));
  EXPECT_EQ(BlockPool(0).num_free(), 0);
  EXPECT_DEATH(pool.Take(1), "num_free");
}

TEST(BlockPool, RandomLifeNeverSharesOrLosesABlock) {
  constexpr unsigned kSeed = 20260101;
  SCOPED_TRACE(testing::Message() << "seed " << kSeed);
  std::mt19937 rng(kSeed);
  BlockPool pool(40);
  std::vector<std::vector<int32_t>> live;
  for (int step = 0; step < 3000; ++step) {
    const int64_t count = rng() % 12;
    if (live.empty() || (rng() % 2 == 0 && count <= pool.num_free())) {
      live.push_back(pool.Take(std::min(count, pool.num_free())));
    } else {
      std::swap(live[rng() % live.size()], live.back());
      pool.Return(live.back());
      live.pop_back();
    }
    std::set<int32_t> held;
    int64_t num_held = 0;
    for (const auto& blocks : live) {
      for (const int32_t block : blocks) ASSERT_TRUE(block >= 0 && block < 40);
      held.insert(blocks.begin(), blocks.end());
      num_held += static_cast<int64_t>(blocks.size());
    }
    ASSERT_EQ(static_cast<int64_t>(held.size()), num_held);
    ASSERT_EQ(pool.num_free(), 40 - num_held);
  }
}

}  // namespace
}  // namespace tokenferry

#include "runtime/attention/kv_cache.h"

#include <random>
#include <set>

#include "gmock/gmock.h"
#include "tests/support/device_cases.h"

namespace tokenferry {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

KvCacheOptions Small(int64_t num_blocks) {
  return {.num_layers = 3, .latent = 10, .rope = 4, .dtype = DType::kBF16, .num_blocks = num_blocks};
}

TEST(KvCache, CountsItsMemory) {
  TestDevice device({});
  {
    KvCache cache = *KvCache::Create(device.device(), Small(5));
    EXPECT_EQ(KvCache::BytesPerToken(cache.options()), 3 * 14 * 2);
    EXPECT_EQ(device.device().allocated_bytes(), 5u * 64 * 3 * 14 * 2);
    EXPECT_NE(cache.Layer(0, nullptr, 0).data, cache.Layer(2, nullptr, 0).data);
    const LatentCacheView view = cache.Layer(1, nullptr, 7);
    EXPECT_EQ(view.latent, 10);
    EXPECT_EQ(view.rope, 4);
    EXPECT_EQ(view.dtype, DType::kBF16);
    EXPECT_EQ(view.max_blocks, 7);
  }
  EXPECT_EQ(device.device().allocated_bytes(), 0u);
  // DeepSeek-V3: 61 layers of 512 + 64 values in bf16.
  EXPECT_EQ(KvCache::BytesPerToken({.num_layers = 61, .latent = 512, .rope = 64}), 70272);
}

TEST(KvCache, GivesOutBlocksAsSequencesGrow) {
  TestDevice device({});
  KvCache cache = *KvCache::Create(device.device(), Small(6));
  const SequenceId a = *cache.AddSequence(0), b = *cache.AddSequence(65);
  EXPECT_THAT(cache.Blocks(a), ElementsAre());
  EXPECT_THAT(cache.Blocks(b), ElementsAre(0, 1));
  ASSERT_TRUE(cache.Extend(a, 1).ok());
  ASSERT_TRUE(cache.Extend(a, 64).ok());
  EXPECT_THAT(cache.Blocks(a), ElementsAre(2));
  ASSERT_TRUE(cache.Extend(a, 129).ok());
  EXPECT_THAT(cache.Blocks(a), ElementsAre(2, 3, 4));
  ASSERT_TRUE(cache.Extend(a, 3).ok());  // never shrinks
  EXPECT_EQ(cache.num_free_blocks(), 1);
  const BlockTables tables = cache.Tables({b, a, b});
  EXPECT_EQ(tables.max_blocks, 3);
  EXPECT_THAT(tables.rows, ElementsAre(0, 1, -1, 2, 3, 4, 0, 1, -1));
  cache.Free(b);
  EXPECT_EQ(cache.num_free_blocks(), 3);
  EXPECT_EQ(cache.num_sequences(), 1);
  EXPECT_EQ(*cache.AddSequence(64), b);
  EXPECT_EQ(cache.Tables({}).max_blocks, 0);
}

TEST(KvCache, SaysWhenBlocksRunOutAndChangesNothing) {
  TestDevice device({});
  KvCache cache = *KvCache::Create(device.device(), Small(4));
  const SequenceId a = *cache.AddSequence(128);
  const absl::Status full = cache.Extend(a, 64 * 4 + 1);
  EXPECT_EQ(full.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(full.message()),
              HasSubstr("sequence of 257 tokens needs 3 more blocks of 64 tokens, 2 of 4 are free"));
  EXPECT_THAT(cache.Blocks(a), ElementsAre(0, 1));
  EXPECT_EQ(cache.AddSequence(129).status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(cache.num_sequences(), 1);
  EXPECT_EQ(cache.num_free_blocks(), 2);
  EXPECT_TRUE(cache.Extend(a, 256).ok());
}

TEST(KvCache, RandomLifeNeverSharesOrLosesABlock) {
  constexpr unsigned kSeed = 20260101;
  SCOPED_TRACE(testing::Message() << "seed " << kSeed);
  std::mt19937 rng(kSeed);
  TestDevice device({});
  KvCache cache = *KvCache::Create(device.device(), Small(40));
  std::vector<std::pair<SequenceId, int64_t>> live;
  for (int step = 0; step < 3000; ++step) {
    const int64_t tokens = rng() % 700;
    if (live.empty() || rng() % 3 == 0) {
      if (auto id = cache.AddSequence(tokens); id.ok()) live.emplace_back(*id, tokens);
    } else {
      auto& chosen = live[rng() % live.size()];
      if (rng() % 3 == 0) {
        cache.Free(chosen.first);
        std::swap(chosen, live.back());
        live.pop_back();
      } else if (cache.Extend(chosen.first, tokens).ok()) {
        chosen.second = std::max(chosen.second, tokens);
      }
    }
    std::set<int32_t> held;
    int64_t num_held = 0;
    for (const auto& [id, length] : live) {
      ASSERT_EQ(static_cast<int64_t>(cache.Blocks(id).size()), (length + 63) / 64);
      for (int32_t block : cache.Blocks(id)) ASSERT_TRUE(block >= 0 && block < 40);
      held.insert(cache.Blocks(id).begin(), cache.Blocks(id).end());
      num_held += cache.Blocks(id).size();
    }
    ASSERT_EQ(static_cast<int64_t>(held.size()), num_held);
    ASSERT_EQ(cache.num_free_blocks(), 40 - num_held);
  }
}

TEST(KvCache, RefusesBadOptions) {
  TestDevice device({});
  const auto code = [&](auto change) {
    KvCacheOptions options = Small(4);
    change(options);
    return KvCache::Create(device.device(), options).status().code();
  };
  using O = KvCacheOptions;
  EXPECT_EQ(code([](O& o) { o.num_layers = 0; }), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code([](O& o) { o.latent = 0; }), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code([](O& o) { o.rope = -1; }), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code([](O& o) { o.num_blocks = 0; }), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code([](O& o) { o.dtype = DType::kF16; }), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code([](O& o) { o.latent = INT64_MAX; }), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code([](O& o) { o.num_layers = INT64_MAX / 4; }), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(device.device().allocated_bytes(), 0u);
}

}  // namespace
}  // namespace tokenferry

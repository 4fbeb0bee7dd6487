#include "runtime/engine/block_cache.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <random>

#include "runtime/attention/attention_ops.h"

namespace tokenferry {
namespace {

using testing::ElementsAre;

// Token t of a text.
std::vector<int32_t> Tokens(int32_t text, int64_t num_blocks) {
  std::vector<int32_t> tokens(num_blocks * kCacheBlockTokens);
  for (size_t t = 0; t < tokens.size(); ++t) tokens[t] = text * 100000 + static_cast<int32_t>(t);
  return tokens;
}

absl::Span<const int32_t> Block(const std::vector<int32_t>& tokens, int64_t i) {
  return absl::MakeConstSpan(tokens).subspan(i * kCacheBlockTokens, kCacheBlockTokens);
}

// A sequence of these tokens: takes what is there, computes the rest.
std::vector<int32_t> Write(BlockCache& cache, const std::string& scope, const std::vector<int32_t>& tokens) {
  const auto num_blocks = static_cast<int64_t>(tokens.size()) / kCacheBlockTokens;
  std::vector<int32_t> blocks = cache.Find(scope, tokens, num_blocks).blocks;
  cache.Hold(blocks);
  for (auto i = static_cast<int64_t>(blocks.size()); i < num_blocks; ++i) {
    blocks.push_back(cache.Fill(cache.Take(1)[0], i == 0 ? -1 : blocks[i - 1], scope, Block(tokens, i)));
  }
  return blocks;
}

TEST(CacheBlocks, CoverTheTokens) {
  EXPECT_EQ(CacheBlocks(0), 0);
  EXPECT_EQ(CacheBlocks(1), 1);
  EXPECT_EQ(CacheBlocks(64), 1);
  EXPECT_EQ(CacheBlocks(65), 2);
  EXPECT_EQ(CacheBlocks(INT64_MAX), INT64_MAX / 64 + 1);
}

TEST(BlockCache, GivesOutWhatNobodyHolds) {
  BlockCache cache(6);
  EXPECT_THAT(cache.Take(0), ElementsAre());
  const std::vector<int32_t> a = cache.Take(2), b = cache.Take(3);
  EXPECT_THAT(a, ElementsAre(0, 1));
  EXPECT_THAT(b, ElementsAre(2, 3, 4));
  EXPECT_EQ(cache.num_available(), 1);
  cache.Release(a);
  EXPECT_EQ(cache.num_available(), 3);
  EXPECT_EQ(cache.num_held(), 3);
  EXPECT_THAT(cache.Take(3), ElementsAre(0, 1, 5));
  EXPECT_EQ(BlockCache(0).num_available(), 0);
  EXPECT_DEATH(cache.Take(1), "num_available");
}

TEST(BlockCache, FindsTheLongestBeginningInWholeBlocks) {
  BlockCache cache(8);
  const auto tokens = Tokens(1, 3);
  const auto blocks = Write(cache, "", tokens);
  EXPECT_EQ(cache.Find("", tokens, 3).blocks, blocks);
  EXPECT_EQ(cache.Find("", tokens, 2).blocks.size(), 2u);
  EXPECT_EQ(cache.Find("", absl::MakeConstSpan(tokens).first(191), 3).blocks.size(), 2u);
  auto other = tokens;
  other[130] = 7;  // in the third block
  EXPECT_THAT(cache.Find("", other, 3).blocks, ElementsAre(blocks[0], blocks[1]));
  other[0] = 7;
  EXPECT_THAT(cache.Find("", other, 3).blocks, ElementsAre());
  // The same tokens behind other ones are other contents.
  EXPECT_THAT(cache.Find("", Block(tokens, 1), 1).blocks, ElementsAre());
}

TEST(BlockCache, ScopesShareNothing) {
  BlockCache cache(8);
  const auto tokens = Tokens(1, 2);
  const auto a = Write(cache, "key a", tokens), b = Write(cache, "key b", tokens);
  EXPECT_NE(a, b);
  EXPECT_EQ(cache.num_held(), 4);
  EXPECT_EQ(cache.Find("key a", tokens, 2).blocks, a);
  EXPECT_THAT(cache.Find("", tokens, 2).blocks, ElementsAre());
}

TEST(BlockCache, OneBlockHasManyHolders) {
  BlockCache cache(3);
  const auto tokens = Tokens(1, 2);
  const auto a = Write(cache, "", tokens), b = Write(cache, "", tokens);
  EXPECT_EQ(a, b);
  EXPECT_EQ(cache.num_held(), 2);
  cache.Release(a);
  EXPECT_EQ(cache.num_held(), 2);
  cache.Release(b);
  EXPECT_EQ(cache.num_held(), 0);
  EXPECT_EQ(cache.Find("", tokens, 2).blocks, a);  // nobody's, but not forgotten
  EXPECT_EQ(cache.Find("", tokens, 2).num_unheld, 2);
}

TEST(BlockCache, TwoThatComputeTheSameEndUpWithOneBlock) {
  BlockCache cache(4);
  const auto tokens = Tokens(1, 1);
  const int32_t a = cache.Take(1)[0], b = cache.Take(1)[0];
  EXPECT_EQ(cache.Fill(a, -1, "", tokens), a);
  EXPECT_EQ(cache.Fill(b, -1, "", tokens), a);
  EXPECT_EQ(cache.num_held(), 1);
  cache.Release({&a, 1});
  EXPECT_EQ(cache.num_held(), 1);
  cache.Release({&a, 1});
  EXPECT_EQ(cache.num_held(), 0);
}

TEST(BlockCache, ForgetsWhatWasLetGoFirstAndTheEndOfASequenceFirst) {
  BlockCache cache(5);
  const auto one = Tokens(1, 2), two = Tokens(2, 2);
  cache.Release(Write(cache, "", one));
  cache.Release(Write(cache, "", two));
  const auto again = Write(cache, "", one);  // used again: `two` is older now
  cache.Release(again);
  cache.Take(2);  // the empty one, and the end of `two`
  EXPECT_EQ(cache.Find("", two, 2).blocks.size(), 1u);
  EXPECT_EQ(cache.Find("", one, 2).blocks.size(), 2u);
  cache.Take(2);
  EXPECT_EQ(cache.Find("", two, 2).blocks.size(), 0u);
  EXPECT_EQ(cache.Find("", one, 2).blocks.size(), 1u);
  EXPECT_EQ(cache.num_available(), 1);
}

// Against a model: what each block holds, who holds it. Nothing is shared that differs, lost, or held twice by chance.
TEST(BlockCache, RandomLifeKeepsContentsAndCountsRight) {
  constexpr unsigned kSeed = 20261128;
  SCOPED_TRACE(testing::Message() << "seed " << kSeed);
  std::mt19937 random(kSeed);
  BlockCache cache(24);
  struct Live {
    std::vector<int32_t> tokens, blocks;
    std::string scope;
  };
  std::vector<Live> live;
  std::map<int32_t, std::pair<std::string, std::vector<int32_t>>> written;  // block: scope, all tokens up to its end
  int64_t num_hits = 0;
  for (int step = 0; step < 20000; ++step) {
    if (live.empty() || random() % 2 == 0) {
      Live s;
      s.scope = random() % 3 == 0 ? "b" : "a";
      for (int i = 0, n = 1 + static_cast<int>(random() % 4); i < n; ++i) {
        const auto block = Tokens(static_cast<int32_t>(random() % 2), 1);  // few texts, so that beginnings meet
        s.tokens.insert(s.tokens.end(), block.begin(), block.end());
      }
      const auto num_blocks = static_cast<int64_t>(s.tokens.size()) / kCacheBlockTokens;
      const auto found = cache.Find(s.scope, s.tokens, num_blocks);
      const auto num_found = static_cast<int64_t>(found.blocks.size());
      for (int64_t i = 0; i < num_found; ++i) {
        const std::vector<int32_t> want(s.tokens.begin(), s.tokens.begin() + (i + 1) * kCacheBlockTokens);
        ASSERT_EQ(written.at(found.blocks[i]), std::pair(s.scope, want)) << "step " << step;
      }
      num_hits += num_found;
      if (cache.num_available() - found.num_unheld < num_blocks - num_found) continue;
      s.blocks = Write(cache, s.scope, s.tokens);
      for (int64_t i = 0; i < num_blocks; ++i) {
        written[s.blocks[i]] = {s.scope, {s.tokens.begin(), s.tokens.begin() + (i + 1) * kCacheBlockTokens}};
      }
      live.push_back(std::move(s));
    } else {
      std::swap(live[random() % live.size()], live.back());
      cache.Release(live.back().blocks);
      live.pop_back();
    }
    std::map<int32_t, int> held;
    for (const Live& s : live) {
      for (const int32_t block : s.blocks) ++held[block];
    }
    ASSERT_EQ(cache.num_held(), static_cast<int64_t>(held.size())) << "step " << step;
    for (const Live& s : live) {
      ASSERT_EQ(cache.Find(s.scope, s.tokens, 100).blocks, s.blocks) << "step " << step;
    }
  }
  EXPECT_GT(num_hits, 1000);
}

}  // namespace
}  // namespace tokenferry

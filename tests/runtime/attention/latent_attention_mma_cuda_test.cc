// Latent attention in bf16 on tensor cores: near the exact result, and a token's bits are its own.
#include <cstring>
#include <numeric>

#include "tests/runtime/attention/exact_attention.h"
#include "tests/runtime/attention/latent_mma_problem.h"
#include "tests/support/seeds.h"

namespace tokenferry::latent_mma {
namespace {

// Columns from the fewest to DeepSeek-V3's; a row that ends within a step of 16; heads in one tile and in two.
const std::vector<Shape> kShapes = {{1, 32, 8}, {4, 128, 32}, {66, 64, 16}, {3, 512, 64}};
ExactAttention Exactly(const Problem& p, int64_t t, int64_t h) {
  const std::vector<int64_t> keys = p.KeysOf(t);
  const auto row = [&](int64_t j) { return p.Row(t, keys[j]); };
  return AttendExactly({.num_keys = std::ssize(keys),
                        .num_columns = p.shape.latent,
                        .scale = kScale,
                        .query = p.Query(t, h),
                        .key = row,
                        .value = row});
}

class LatentAttentionMmaCudaTest : public CudaCompareTest {
 protected:
  void ExpectNear(const Problem& p) {
    tokenferry::ExpectNear(RunAttention(*cuda_, p), p.num_tokens(), p.shape.heads, p.shape.latent,
                           [&](int64_t t, int64_t h) { return Exactly(p, t, h); });
  }
};

TEST_F(LatentAttentionMmaCudaTest, IsNearTheExactResult) {
  for (const Shape& shape : kShapes) {
    const bool is_small = shape.heads * shape.latent < 1024;
    for (uint32_t seed = 0; seed < static_cast<uint32_t>(NumTestSeeds(is_small ? 10 : 2)); ++seed) {
      SCOPED_TRACE(testing::Message() << shape.heads << " heads, latent " << shape.latent << ", seed " << seed);
      ExpectNear(RandomProblem(shape, {}, seed));
      ExpectNear(RandomProblem(shape, {static_cast<int32_t>(seed)}, seed));
      // One key, a whole block, no token, the first key of a block, several blocks.
      ExpectNear(RandomProblem(shape, {0, 63, -1, 64, 130}, seed));
    }
  }
}

TEST_F(LatentAttentionMmaCudaTest, OverSelectedKeysIsNearTheExactResult) {
  for (const Shape& shape : kShapes) {
    for (const int64_t num_selected : {1, 70}) {
      SCOPED_TRACE(testing::Message() << shape.heads << " heads, latent " << shape.latent << ", " << num_selected);
      ExpectNear(RandomProblem(shape, {0, -1, 69, 200}, 3, num_selected));
    }
  }
}

// Alone, beside others, and with a list of all keys.
TEST_F(LatentAttentionMmaCudaTest, ATokensBitsAreItsOwn) {
  for (const Shape& shape : kShapes) {
    const Problem all = RandomProblem(shape, {150, 3, 64, 63, -1}, 5);
    const std::vector<uint8_t> together = RunAttention(*cuda_, all);
    const int64_t row = shape.heads * shape.latent;
    for (int64_t t = 0; t < all.num_tokens(); ++t) {
      SCOPED_TRACE(testing::Message() << shape.heads << " heads, latent " << shape.latent << ", token " << t);
      Problem one = all;
      one.seq = {all.seq[t]};
      one.position = {all.position[t]};
      const auto part = [&](const std::vector<float>& x) {
        const int64_t size = std::ssize(x) / all.num_tokens();
        return std::vector<float>(x.begin() + t * size, x.begin() + (t + 1) * size);
      };
      one.q_latent = part(all.q_latent), one.q = part(all.q);
      const std::vector<uint8_t> alone = RunAttention(*cuda_, one);
      ASSERT_EQ(0, std::memcmp(alone.data(), together.data() + t * row * sizeof(float), row * sizeof(float)));
      one.num_selected = 200;
      one.selected.assign(one.num_selected, -1);
      std::iota(one.selected.begin(), one.selected.begin() + one.position[0] + 1, 0);
      EXPECT_EQ(alone, RunAttention(*cuda_, one));
    }
  }
}

// One that has a single key, two whole ones and a cut one, tokens that have fewer; two tiles of heads; a list of keys.
TEST_F(LatentAttentionMmaCudaTest, LongContextsAreSplit) {
  ExpectNear(RandomProblem({2, 32, 8}, {2048, -1, 70, 4300}, 7));
  ExpectNear(RandomProblem({66, 16, 8}, {10, 2048}, 7));
  ExpectNear(RandomProblem({2, 32, 8}, {2500}, 8, 2100));
}

// In blocks of their own, or, beside many rows that are no tokens, one after the other in a block.
TEST_F(LatentAttentionMmaCudaTest, SplitsDecideNoBit) {
  const Problem apart = RandomProblem({2, 32, 8}, {2048, -1, 70, 4300}, 7), in_turn = WithoutTokens(apart, 1024);
  const std::vector<uint8_t> some = RunAttention(*cuda_, apart), many = RunAttention(*cuda_, in_turn);
  EXPECT_EQ(0, std::memcmp(some.data(), many.data(), some.size() - OpRun::kGuardBytes));
}

}  // namespace
}  // namespace tokenferry::latent_mma

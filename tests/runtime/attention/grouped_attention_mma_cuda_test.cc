// Grouped attention in bf16 on tensor cores: near the exact result, and a token's bits are its own.
#include <algorithm>
#include <cstring>

#include "tests/runtime/attention/exact_attention.h"
#include "tests/runtime/attention/grouped_mma_problem.h"
#include "tests/support/seeds.h"

namespace tokenferry::grouped_mma {
namespace {

using Kind = KeyRange::Kind;
// A head of keys for each query head, for several, for more than a tile has; windows that begin within a block.
const std::vector<Shape> kShapes = {
    {1, 1, 16}, {4, 4, 32, {Kind::kChunk, 50}}, {10, 2, 128, {Kind::kSliding, 70}}, {20, 1, 80}, {2, 1, 256}};
ExactAttention Exactly(const Problem& p, int64_t t, int64_t h) {
  const Shape& s = p.shape;
  const int64_t first = s.keys.First(p.position[t]), kv = h / (s.heads / s.kv_heads) * s.head_dim;
  AttentionQuery q{.num_keys = std::max<int64_t>(0, p.Last(t) - first + 1),
                   .num_columns = s.head_dim,
                   .scale = kScale,
                   .key = [&, first, kv](int64_t j) { return p.Row(t, first + j) + kv; },
                   .value = [&, first, kv](int64_t j) { return p.Row(t, first + j) + p.kv_size() + kv; }};
  const float* const query = &p.q[(t * s.heads + h) * s.head_dim];
  for (int64_t i = 0; i < s.head_dim; ++i) q.query.push_back(ToFloat(ToBF16(query[i])));
  if (!p.bias.empty()) {
    q.bias = [&, first](int64_t j) { return RelativeBias{p.bias.data(), kReach}.At(h, first + j - p.position[t]); };
  }
  if (!p.sinks.empty()) q.has_sink = true, q.sink = p.sinks[h];
  return AttendExactly(q);
}

class GroupedAttentionMmaCudaTest : public CudaCompareTest {
 protected:
  void ExpectNear(const Problem& p) {
    tokenferry::ExpectNear(RunAttention(*cuda_, p), p.num_tokens(), p.shape.heads, p.shape.head_dim,
                           [&](int64_t t, int64_t h) { return Exactly(p, t, h); });
  }
};

TEST_F(GroupedAttentionMmaCudaTest, IsNearTheExactResult) {
  for (const Shape& shape : kShapes) {
    for (const With with : {With::kNothing, With::kSinks, With::kBiasAndLastKeys}) {
      const bool is_small = shape.heads * shape.head_dim <= 128;
      for (uint32_t seed = 0; seed < static_cast<uint32_t>(NumTestSeeds(is_small ? 10 : 2)); ++seed) {
        SCOPED_TRACE(testing::Message() << shape.heads << " heads of " << shape.head_dim << ", with "
                                        << static_cast<int>(with) << ", seed " << seed);
        ExpectNear(RandomProblem(shape, {}, seed, with));
        ExpectNear(RandomProblem(shape, {static_cast<int32_t>(seed)}, seed, with));
        // One key, a whole block, no token, the first key of a block, several blocks.
        ExpectNear(RandomProblem(shape, {0, 63, -1, 64, 190}, seed, with));
      }
    }
  }
}

TEST_F(GroupedAttentionMmaCudaTest, ATokensBitsAreItsOwn) {
  for (const Shape& shape : kShapes) {
    const Problem all = RandomProblem(shape, {150, 3, 64, 63, -1}, 5, With::kSinks);
    const std::vector<uint8_t> together = RunAttention(*cuda_, all);
    const int64_t row = int64_t{shape.heads} * shape.head_dim, bytes = row * static_cast<int64_t>(sizeof(float));
    for (int64_t t = 0; t < all.num_tokens(); ++t) {
      SCOPED_TRACE(testing::Message() << shape.heads << " heads of " << shape.head_dim << ", token " << t);
      Problem one = all;
      one.seq = {all.seq[t]};
      one.position = {all.position[t]};
      one.q.assign(all.q.begin() + t * row, all.q.begin() + (t + 1) * row);
      const std::vector<uint8_t> alone = RunAttention(*cuda_, one);
      EXPECT_EQ(0, std::memcmp(alone.data(), together.data() + t * bytes, bytes));
    }
  }
}

// Windows begin and end within a split.
TEST_F(GroupedAttentionMmaCudaTest, LongContextsAreSplit) {
  for (const KeyRange& keys :
       {KeyRange{}, KeyRange{Kind::kSliding, 2300}, KeyRange{Kind::kSliding, 100}, KeyRange{Kind::kChunk, 3000}}) {
    SCOPED_TRACE(testing::Message() << static_cast<int>(keys.kind) << " of " << keys.size);
    ExpectNear(RandomProblem({6, 2, 16, keys}, {2048, -1, 70, 4300}, 7, With::kSinks));
  }
}

// As latent attention's.
TEST_F(GroupedAttentionMmaCudaTest, SplitsDecideNoBit) {
  const Problem apart = RandomProblem({8, 4, 16}, {2048, -1, 70, 4300}, 7, With::kSinks);
  const std::vector<uint8_t> some = RunAttention(*cuda_, apart), many = RunAttention(*cuda_, WithoutTokens(apart, 256));
  EXPECT_EQ(0, std::memcmp(some.data(), many.data(), some.size() - OpRun::kGuardBytes));
}

}  // namespace
}  // namespace tokenferry::grouped_mma

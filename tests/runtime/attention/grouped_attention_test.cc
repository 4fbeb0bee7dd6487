// Grouped attention: the kernels against the reference bit for bit, any cut against the whole, and both against sums in
// double precision.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>

#include "absl/strings/str_cat.h"
#include "core/device/cpu_device.h"
#include "core/host/isa.h"
#include "core/kernels/matmul_values.h"
#include "runtime/attention/attention_kernels.h"
#include "runtime/attention/attention_ops.h"
#include "runtime/attention/relative_bias.h"

namespace tokenferry {
namespace {

struct Case {
  const char* name;
  int32_t heads = 0, kv_heads = 0, head_dim = 0;
  std::vector<int64_t> lengths;  // of sequences
  KeyRange keys = {};
  bool sinks = false;
  Compute compute = Compute::kF32;
  int64_t reach = 0;   // of a relative bias; 0: none
  bool whole = false;  // every token sees all of its sequence, as an encoder's do: no chunks then

  DType cache_dtype() const { return compute == Compute::kF32 ? DType::kF32 : DType::kBF16; }
};

constexpr uint64_t kSeed = 20;

std::vector<float> Uniform(std::mt19937_64& random, int64_t size) {
  std::vector<float> values(static_cast<size_t>(size));
  for (float& v : values) v = static_cast<float>(static_cast<int64_t>(random() >> 40) - (1 << 23)) / (1 << 23);
  return values;
}

// Queries, keys and values in [-1, 1) of all tokens, sequence after sequence.
class GroupedAttentionTest : public testing::TestWithParam<Case> {
 protected:
  void SetUp() override {
    const Case& c = GetParam();
    std::mt19937_64 random(kSeed);
    for (const int64_t n : c.lengths) num_tokens_ += n;
    q_ = Uniform(random, num_tokens_ * c.heads * c.head_dim);
    k_ = Uniform(random, num_tokens_ * c.kv_heads * c.head_dim);
    v_ = Uniform(random, num_tokens_ * c.kv_heads * c.head_dim);
    sinks_ = Uniform(random, c.heads);
    bias_ = Uniform(random, c.heads * (2 * c.reach + 1));
    std::printf("seed %lu\n", static_cast<unsigned long>(kSeed));
  }

  // What goes through the operations: tokens in steps of `chunk`, all sequences side by side in each.
  std::vector<float> Run(int64_t chunk, bool reference, Isa isa, int num_threads) {
    const Case& c = GetParam();
    const int64_t row = 2 * int64_t{c.kv_heads} * c.head_dim, kv = row / 2, out_row = int64_t{c.heads} * c.head_dim;
    const auto num_seqs = static_cast<int64_t>(c.lengths.size());
    int64_t longest = 0;
    for (const int64_t n : c.lengths) longest = std::max(longest, n);
    const int64_t max_blocks = CacheBlocks(longest);
    // NaN: what no token has written must not be read.
    std::vector<uint32_t> cache(static_cast<size_t>(num_seqs * max_blocks * kCacheBlockTokens * row), 0x7FC07FC0u);
    std::vector<int32_t> table;  // blocks in falling order
    for (int64_t i = num_seqs * max_blocks; i > 0; --i) table.push_back(static_cast<int32_t>(i - 1));
    std::vector<float> out(static_cast<size_t>(num_tokens_ * out_row));
    const auto device = CreateCpuDevice({.num_threads = num_threads, .isa = isa});
    auto stream = *device->CreateStream();
    if (c.whole) chunk = longest;
    for (int64_t begin = 0; begin < longest; begin += chunk) {
      std::vector<int32_t> seq, position, last;
      std::vector<int64_t> token;
      for (int64_t s = 0, first = 0; s < num_seqs; first += c.lengths[s++]) {
        for (int64_t p = begin; p < std::min(begin + chunk, c.lengths[s]); ++p) {
          seq.push_back(static_cast<int32_t>(s));
          position.push_back(static_cast<int32_t>(p));
          last.push_back(static_cast<int32_t>(c.lengths[s] - 1));
          token.push_back(first + p);
        }
      }
      const auto n = static_cast<int64_t>(token.size());
      std::vector<float> q, k, v, o(static_cast<size_t>(n * out_row));
      for (const int64_t t : token) {
        q.insert(q.end(), q_.begin() + t * out_row, q_.begin() + (t + 1) * out_row);
        k.insert(k.end(), k_.begin() + t * kv, k_.begin() + (t + 1) * kv);
        v.insert(v.end(), v_.begin() + t * kv, v_.begin() + (t + 1) * kv);
      }
      const TokenPositions tokens{seq.data(), position.data(), n};
      const CacheView view{cache.data(), c.cache_dtype(), kv, kv, table.data(), max_blocks};
      const CacheWriteArgs write{k.data(), kv, v.data(), kv, tokens, view};
      GroupedAttentionArgs args{
          q.data(), c.heads, c.kv_heads, c.head_dim, Scale(), c.keys, c.sinks ? sinks_.data() : nullptr,
          tokens,   view,    o.data(),   c.compute};
      if (c.whole) args.last_key = last.data();
      if (c.reach > 0) args.bias = {bias_.data(), c.reach};
      if (reference) {
        attention_reference::CacheWrite(write);
        attention_reference::GroupedAttention(args);
      } else {
        CacheWrite(*stream, write);
        GroupedAttention(*stream, args);
        EXPECT_TRUE(stream->Synchronize().ok());
      }
      for (int64_t i = 0; i < n; ++i) std::copy_n(o.begin() + i * out_row, out_row, out.begin() + token[i] * out_row);
    }
    return out;
  }

  float Scale() const { return 1 / std::sqrt(static_cast<float>(GetParam().head_dim)); }
  float Input(float x) const { return GetParam().compute == Compute::kBF16 ? RoundToBF16(x) : x; }

  int64_t num_tokens_ = 0;
  std::vector<float> q_, k_, v_, sinks_, bias_;
};

TEST_P(GroupedAttentionTest, KernelsAndCutsGiveTheReferencesBits) {
  const std::vector<float> want = Run(1'000'000, /*reference=*/true, Isa::kPortable, 1);
  const auto expect_same = [&](const std::vector<float>& got, const std::string& what) {
    EXPECT_EQ(std::memcmp(got.data(), want.data(), want.size() * sizeof(float)), 0) << what;
  };
  expect_same(Run(5, true, Isa::kPortable, 1), "reference in chunks");
  for (const Isa isa : {Isa::kPortable, Isa::kNeon, Isa::kAvx2, Isa::kAvx512, Isa::kAvx512Bf16}) {
    if ((SupportedIsas() >> static_cast<int>(isa) & 1) == 0) continue;
    for (const int64_t chunk : {1, 7, 64, 1'000'000}) {
      expect_same(Run(chunk, false, isa, 1 + static_cast<int>(chunk % 3)),
                  absl::StrCat(IsaName(isa), ", chunks of ", chunk));
    }
  }
}

TEST_P(GroupedAttentionTest, AgreesWithDoublePrecision) {
  const Case& c = GetParam();
  const std::vector<float> got = Run(1'000'000, false, BestIsa(SupportedIsas()), 2);
  const int64_t d = c.head_dim;
  double worst = 0;
  for (int64_t s = 0, first = 0; s < static_cast<int64_t>(c.lengths.size()); first += c.lengths[s++]) {
    for (int64_t p = 0; p < c.lengths[s]; ++p) {
      for (int32_t h = 0; h < c.heads; ++h) {
        const float* q = &q_[static_cast<size_t>(((first + p) * c.heads + h) * d)];
        const int64_t kv_head = h / (c.heads / c.kv_heads);
        std::vector<double> out(static_cast<size_t>(d), 0.0);
        double sum = c.sinks ? std::exp(static_cast<double>(sinks_[static_cast<size_t>(h)])) : 0;
        for (int64_t j = c.keys.First(p); j <= (c.whole ? c.lengths[s] - 1 : p); ++j) {
          const size_t row = static_cast<size_t>(((first + j) * c.kv_heads + kv_head) * d);
          double score = 0;
          for (int64_t i = 0; i < d; ++i) score += static_cast<double>(Input(q[i])) * Input(k_[row + i]);
          const int64_t offset = std::clamp(j - p, -c.reach, c.reach);
          if (c.reach > 0) score += bias_[static_cast<size_t>(h * (2 * c.reach + 1) + offset + c.reach)];
          const double weight = std::exp(score * Scale());
          sum += weight;
          for (int64_t i = 0; i < d; ++i) out[static_cast<size_t>(i)] += weight * Input(v_[row + i]);
        }
        for (int64_t i = 0; i < d; ++i) {
          const double diff =
              out[static_cast<size_t>(i)] / sum - got[static_cast<size_t>(((first + p) * c.heads + h) * d + i)];
          worst = std::max(worst, std::abs(diff));
        }
      }
    }
  }
  // With u = 2^-24 and all inputs within 1: a score is a sum of d products in 16 lanes, off by at most (d / 16 + 6) u
  // of the sum of their sizes d, with a bias rounded once more at a size of d + 1, then scaled by d^-0.5; subtracting
  // the maximum, itself at most sqrt(d) + 1, rounds once more. A weight is off by that much and by exp's 2 ulp. The
  // weighted sums of n values and the sum of weights round once per key and twice per block; their quotient, of size 1
  // at most, once. Numerator and denominator may both be off.
  const double u = std::exp2(-24), root = std::sqrt(static_cast<double>(d));
  int64_t longest = 0;
  for (const int64_t n : c.lengths) longest = std::max(longest, n);
  const double biased = c.reach > 0 ? u * (root + 1) : 0;
  const double score = (static_cast<double>(d) / 16 + 6) * u * root + biased + 2 * u * (2 * root + 2);
  const double weight = score + 4 * u, sums = (static_cast<double>(longest) * (1 + 2.0 / kCacheBlockTokens) + 4) * u;
  EXPECT_LE(worst, 2 * (weight + sums));
  EXPECT_GT(worst, 0);
}

INSTANTIATE_TEST_SUITE_P(
    Shapes, GroupedAttentionTest,
    testing::Values(Case{"Grouped", 8, 2, 32, {200, 1, 65}}, Case{"AllHeads", 3, 3, 20, {70, 64}},
                    Case{"OneKeyHead", 40, 1, 8, {130}}, Case{"OddSizes", 6, 2, 17, {129, 3}},
                    Case{"Sliding", 4, 2, 16, {200, 15, 64}, {KeyRange::Kind::kSliding, 16}},
                    Case{"WideWindow", 4, 2, 16, {300}, {KeyRange::Kind::kSliding, 100}},
                    Case{"OneKey", 4, 1, 16, {70}, {KeyRange::Kind::kSliding, 1}},
                    Case{"Chunks", 4, 2, 16, {200, 33}, {KeyRange::Kind::kChunk, 48}},
                    Case{"Sinks", 4, 2, 16, {150}, {KeyRange::Kind::kSliding, 16}, true},
                    Case{"SinksOnly", 4, 4, 64, {67}, {}, true},
                    Case{"BF16", 8, 2, 32, {200, 1, 65}, {}, false, Compute::kBF16},
                    Case{"BF16Window", 6, 3, 18, {140}, {KeyRange::Kind::kSliding, 33}, true, Compute::kBF16},
                    Case{"RelativeBias", 6, 3, 16, {200, 1, 65}, {}, false, Compute::kF32, 20},
                    Case{"Encoder", 4, 4, 16, {130, 7, 64}, {}, false, Compute::kF32, 9, true},
                    Case{"EncoderBF16", 4, 2, 17, {70, 3}, {}, false, Compute::kBF16, 100, true},
                    Case{"AllOfAnInput", 4, 2, 8, {66, 5}, {}, false, Compute::kF32, 0, true}),
    [](const auto& info) { return info.param.name; });

// What a step of fixed shape has where it has no token: nothing is read of its sequence.
TEST(GroupedAttentionNumbers, ANegativePositionIsNoToken) {
  constexpr int32_t kHeads = 4, kKvHeads = 2, kHeadDim = 8;
  constexpr int64_t kTokens = 3, kKv = kKvHeads * kHeadDim, kRow = kHeads * kHeadDim;
  std::mt19937_64 random(kSeed);
  std::vector<float> cache = Uniform(random, 2 * kCacheBlockTokens * 2 * kKv);
  const std::vector<float> q = Uniform(random, kTokens * kRow);
  const std::vector<int32_t> table = {1, 0}, seq = {0, 1 << 20, 0}, position = {70, -1, 3};
  const CacheView view{cache.data(), DType::kF32, kKv, kKv, table.data(), 2};
  for (const KeyRange keys : {KeyRange(), {KeyRange::Kind::kSliding, 5}, {KeyRange::Kind::kChunk, 10}}) {
    std::vector<float> want(kTokens * kRow, 77.0f);
    GroupedAttentionArgs args{q.data(), kHeads,     kKvHeads, kHeadDim,
                              0.3f,     keys,       nullptr,  {seq.data(), position.data(), kTokens},
                              view,     want.data()};
    attention_reference::GroupedAttention(args);
    EXPECT_EQ(std::vector<float>(want.begin() + kRow, want.begin() + 2 * kRow), std::vector<float>(kRow, 0.0f));
    for (const Isa isa : {Isa::kPortable, BestIsa(SupportedIsas())}) {
      std::vector<float> got(kTokens * kRow, 77.0f);
      args.out = got.data();
      const auto device = CreateCpuDevice({.num_threads = 1, .isa = isa});
      auto stream = *device->CreateStream();
      GroupedAttention(*stream, args);
      ASSERT_TRUE(stream->Synchronize().ok());
      EXPECT_EQ(got, want) << IsaName(isa);
    }
  }
}

// 32 buckets up to a distance of 128, as every published T5 has them: the distances at which a new bucket begins.
TEST(RelativeBuckets, GrowWithTheDistance) {
  const RelativeBuckets before{32, 128, RelativeBuckets::Sides::kBefore}, both{32, 128, RelativeBuckets::Sides::kBoth};
  const auto starts = [](const RelativeBuckets& buckets, int64_t sign) {
    std::vector<int64_t> starts;
    for (int64_t n = 1; n <= 200; ++n) {
      const int64_t step = BucketOf(buckets, sign * n) - BucketOf(buckets, sign * (n - 1));
      EXPECT_TRUE(step == 0 || step == 1 || (n == 1 && sign > 0)) << n;
      if (n == 1 || step != 0) starts.push_back(n);
    }
    return starts;
  };
  // m + k is reached at m * (128 / m)^(k / m): m = 16 and m = 8.
  EXPECT_EQ(starts(before, -1), (std::vector<int64_t>{1,  2,  3,  4,  5,  6,  7,  8,  9,  10, 11, 12, 13, 14, 15, 16,
                                                      19, 21, 24, 27, 31, 35, 40, 46, 52, 59, 67, 77, 87, 99, 113}));
  const std::vector<int64_t> on_one_side = {1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 23, 32, 46, 64, 91};
  EXPECT_EQ(starts(both, -1), on_one_side);
  EXPECT_EQ(starts(both, 1), on_one_side);
  EXPECT_EQ(BucketOf(before, 5), 0);
  EXPECT_EQ(BucketOf(both, 5), 16 + 5);
  EXPECT_EQ(BucketOf(before, -1'000'000), 31);
  EXPECT_EQ(BucketOf(both, 1'000'000), 31);
}

TEST(RelativeBuckets, ValuesAreTheTablesByHeadAndOffset) {
  const RelativeBuckets buckets{4, 3, RelativeBuckets::Sides::kBoth};
  const std::vector<float> table = {0, 10, 1, 11, 2, 12, 3, 13};  // [4 buckets, 2 heads]
  const std::vector<float> values = RelativeBiasValues(buckets, table, 2);
  EXPECT_EQ(values, (std::vector<float>{1, 1, 1, 0, 3, 3, 3, 11, 11, 11, 10, 13, 13, 13}));
  const RelativeBias bias{values.data(), 3};
  EXPECT_EQ(bias.At(1, -100), 11);
  EXPECT_EQ(bias.At(1, 0), 10);
  EXPECT_EQ(bias.At(0, 2), 3);
}

TEST(KeyRangeTest, FirstKey) {
  const KeyRange sliding{KeyRange::Kind::kSliding, 4}, chunk{KeyRange::Kind::kChunk, 4};
  EXPECT_EQ(KeyRange().First(100), 0);
  EXPECT_EQ(sliding.First(3), 0);
  EXPECT_EQ(sliding.First(4), 1);
  EXPECT_EQ(chunk.First(3), 0);
  EXPECT_EQ(chunk.First(4), 4);
  EXPECT_EQ(chunk.First(7), 4);
}

TEST(TemperatureTest, GrowsWithThePosition) {
  const std::vector<int32_t> position = {0, 8190, 8191, 16383, 100000}, seq(5, 0);
  std::vector<float> x(5, 1.0f);
  const auto device = CreateCpuDevice({});
  auto stream = *device->CreateStream();
  const std::vector<float> factors = TemperatureFactors(0.1f, 8192, 100001);
  ApplyTemperature(*stream, {{x.data(), 5, 1, 1}, factors.data(), 8192, {seq.data(), position.data(), 5}});
  ASSERT_TRUE(stream->Synchronize().ok());
  const std::vector<float> want = {1, 1, 1.069315f, 1.109861f, 1.256495f};
  for (size_t i = 0; i < want.size(); ++i) EXPECT_NEAR(x[i], want[i], 1e-6) << i;  // the digits given
}

// Pair i of a half-split head is (i, i + d / 2); the rest of a head that is wider than the rotation stays as it is.
// A table with the rotations of two kinds of sequences: the row says which, the position only that there is a token.
TEST(RotateTest, TakesTheRowThatATokenHas) {
  const int32_t seq[] = {0, 0, 0, 0}, position[] = {5, 2, -1, 2}, row[] = {5, 2, 0, 8};
  std::vector<float> table;
  for (int i = 0; i < 9 * 4; ++i) table.push_back(static_cast<float>(i));
  const auto device = CreateCpuDevice({});
  const auto stream = *device->CreateStream();
  const auto rotated = [&](const TokenPositions& tokens) {
    std::vector<float> x(4 * 4, 1.0f);
    Rotate(*stream, {x.data(), 4, 0, 1, 4, table.data(), tokens});
    EXPECT_TRUE(stream->Synchronize().ok());
    return x;
  };
  const int32_t rows_of_tokens[] = {5, 2, -1, 8};
  EXPECT_EQ(rotated({seq, position, 4, row}), rotated({seq, rows_of_tokens, 4}));
  EXPECT_NE(rotated({seq, position, 4, row}), rotated({seq, position, 4}));
}

TEST(RotateTest, HalfSplitTurnsItsOwnPairs) {
  std::vector<float> x = {1, 2, 3, 4, 5, 6, 7, 8};             // one head of 8, of which 4 turn
  const std::vector<float> table = {1, 1, 0, 0, 0, -1, 1, 0};  // position 1: quarter turn, half turn
  const std::vector<int32_t> zero = {0}, one = {1};
  const auto device = CreateCpuDevice({});
  auto stream = *device->CreateStream();
  Rotate(*stream, {x.data(), 8, 8, 1, 4, table.data(), {zero.data(), one.data(), 1}, RopeLayout::kHalfSplit});
  ASSERT_TRUE(stream->Synchronize().ok());
  EXPECT_EQ(x, (std::vector<float>{-3, -2, 1, -4, 5, 6, 7, 8}));
}

}  // namespace
}  // namespace tokenferry

#include "runtime/attention/rope.h"

#include <algorithm>
#include <cmath>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace tokenferry {
namespace {

RopeConfig DeepSeek() {
  return {.theta = 10000,
          .dim = 64,
          .max_position = 300,
          .scaling = RopeScaling::kYarn,
          .factor = 40,
          .original_max_position = 4096,
          .mscale = 1,
          .mscale_all_dim = 1};
}

RopeConfig KimiK2() {
  RopeConfig c = DeepSeek();
  c.theta = 50000;
  c.factor = 32;
  c.beta_fast = c.beta_slow = 1;
  return c;
}

// Published values have 10 digits; computed ones are off by a few f32 roundings (power, reciprocal, blend).
void ExpectFrequency(float got, double want) { EXPECT_NEAR(got / want, 1, 4 * 0x1p-24 + 1e-9); }

TEST(Rope, DeepSeekYarnFrequencies) {
  const std::vector<float> f = RopeInverseFrequencies(DeepSeek());
  ASSERT_EQ(f.size(), 32u);
  EXPECT_EQ(f[0], 1.0f);
  ExpectFrequency(f[10], 5.623413252e-2);
  ExpectFrequency(f[11], 3.900692657e-2);
  ExpectFrequency(f[16], 5.5e-3);
  ExpectFrequency(f[20], 7.905694150e-4);
  ExpectFrequency(f[22], 1.778279410e-4);
  ExpectFrequency(f[23], 3.333803580e-5);
  ExpectFrequency(f[31], 3.333803580e-6);
}

TEST(Rope, KimiYarnFrequenciesWithEqualBetas) {
  const std::vector<float> f = RopeInverseFrequencies(KimiK2());
  ExpectFrequency(f[19], 1.621759908e-3);
  ExpectFrequency(f[20], 3.614046774e-5);
}

TEST(Rope, GptOssYarnWithoutTruncation) {
  const RopeConfig c{.theta = 150000,
                     .dim = 64,
                     .max_position = 1,
                     .scaling = RopeScaling::kYarn,
                     .factor = 32,
                     .original_max_position = 4096,
                     .truncate = false};
  const std::vector<float> f = RopeInverseFrequencies(c);
  EXPECT_EQ(f[0], 1.0f);
  // The ramp's ends are real numbers here: a rounding of them, or of 1 - ramp, weighs more in the blend.
  EXPECT_NEAR(f[10] / 1.933500113e-2, 1, 1e-6);
  EXPECT_NEAR(f[16] / 4.564839192e-4, 1, 2e-6);
  ExpectFrequency(f[20], 1.818833668e-5);
  ExpectFrequency(f[31], 3.023511428e-7);
  // No mscales: cosines of position 0 are the attention factor itself.
  EXPECT_NEAR((*RopeTable(c))[0], 1.3465736, 1e-6);
}

TEST(Rope, DefaultFrequencies) {
  const std::vector<float> f = RopeInverseFrequencies({.theta = 10000, .dim = 8, .max_position = 1});
  ASSERT_EQ(f.size(), 4u);
  for (int i = 0; i < 4; ++i) ExpectFrequency(f[i], std::pow(10000, -i / 4.0));
}

TEST(Rope, TableHoldsCosinesThenSinesOfF32Angles) {
  const RopeConfig c = DeepSeek();
  const std::vector<float> f = RopeInverseFrequencies(c), table = *RopeTable(c);
  ASSERT_EQ(table.size(), static_cast<size_t>(c.max_position * c.dim));
  for (int64_t p = 0; p < c.max_position; ++p) {
    for (int64_t i = 0; i < c.dim / 2; ++i) {
      const float angle = static_cast<float>(p) * f[i];
      ASSERT_EQ(table[p * c.dim + i], static_cast<float>(std::cos(static_cast<double>(angle))));
      ASSERT_EQ(table[p * c.dim + c.dim / 2 + i], static_cast<float>(std::sin(static_cast<double>(angle))));
    }
  }
}

TEST(Rope, AttentionFactorMultipliesTheTable) {
  RopeConfig c = DeepSeek();
  c.mscale = 0.707;
  c.mscale_all_dim = 1;
  EXPECT_FLOAT_EQ((*RopeTable(c))[0], (0.1 * 0.707 * std::log(40) + 1) / (0.1 * std::log(40) + 1));
  c.mscale_all_dim = 0;
  EXPECT_FLOAT_EQ((*RopeTable(c))[0], 0.1 * std::log(40) + 1);
  c.attention_factor = 0.5;
  EXPECT_EQ((*RopeTable(c))[0], 0.5f);
  c.scaling = RopeScaling::kNone;
  EXPECT_EQ((*RopeTable(c))[0], 1.0f);
}

TEST(Rope, AttentionScale) {
  RopeConfig c = DeepSeek();
  EXPECT_FLOAT_EQ(AttentionScale(c, 192), 0.1352337788);
  c.mscale = c.mscale_all_dim = 0.707;  // V2-Lite
  EXPECT_FLOAT_EQ(AttentionScale(c, 192), 0.1147213868);
  EXPECT_FLOAT_EQ(AttentionScale(KimiK2(), 192), 0.1308608000);
  RopeConfig k2 = KimiK2();
  k2.factor = 64;
  EXPECT_FLOAT_EQ(AttentionScale(k2, 192), 0.1446796258);
  c.scaling = RopeScaling::kNone;
  EXPECT_FLOAT_EQ(AttentionScale(c, 192), 0.0721687836);
}

// Llama 4 Scout: both factors 1, so that nothing lies between stretched and kept.
TEST(Rope, Llama3Frequencies) {
  RopeConfig c{.theta = 500000,
               .dim = 128,
               .max_position = 10,
               .scaling = RopeScaling::kLlama3,
               .factor = 16,
               .original_max_position = 8192,
               .low_freq_factor = 1,
               .high_freq_factor = 1};
  const auto scout = RopeInverseFrequencies(c);
  EXPECT_FLOAT_EQ(scout[34], 9.384738704e-4f);
  EXPECT_FLOAT_EQ(scout[35], 4.778106177e-5f);
  // Llama 3.1: f = theta^(-2 i / d) has wavelength 2 pi / f; between 8192 / 4 and 8192 / 1 the two are mixed.
  c.factor = 8;
  c.high_freq_factor = 4;
  const auto f = RopeInverseFrequencies(c);
  for (int i : {0, 10, 28, 29, 31, 34, 35, 63}) {
    const double plain = std::pow(500000.0, -2.0 * i / 128), wavelength = 2 * M_PI / plain;
    const double keep = std::min(std::max((8192 / wavelength - 1) / 3, 0.0), 1.0);
    EXPECT_NEAR(f[i] / (plain * (keep + (1 - keep) / 8)), 1, 1e-5) << i;  // the power is rounded before it is used
  }
  c.high_freq_factor = 0.5;
  EXPECT_EQ(ValidateRope(c).code(), absl::StatusCode::kInvalidArgument);
}

RopeConfig LongRope() {
  return {.theta = 10000,
          .dim = 8,
          .max_position = 100,
          .scaling = RopeScaling::kLongRope,
          .factor = 32,
          .original_max_position = 40,
          .short_factors = {1, 1.1, 1.2, 1.3},
          .long_factors = {1.05, 3.75, 11.85, 25.35}};
}

TEST(Rope, LongRopeHasAFactorForEachPair) {
  const RopeConfig c = LongRope();
  const auto of_short = RopeInverseFrequencies(c, RopeFactors::kShort);
  const auto of_long = RopeInverseFrequencies(c, RopeFactors::kLong);
  for (int i = 0; i < 4; ++i) {
    ExpectFrequency(of_short[i], 1 / (c.short_factors[i] * std::pow(10000, i / 4.0)));
    ExpectFrequency(of_long[i], 1 / (c.long_factors[i] * std::pow(10000, i / 4.0)));
  }
}

TEST(Rope, FactorsOfPairsHoldForAllSequences) {
  RopeConfig c = {.theta = 10000, .dim = 8, .max_position = 100, .scaling = RopeScaling::kFactors};
  c.factors = {1, 1.5, 4, 8};
  const std::vector<float> f = RopeInverseFrequencies(c);
  for (int i = 0; i < 4; ++i) ExpectFrequency(f[i], 1 / (c.factors[i] * std::pow(10000, i / 4.0)));
  EXPECT_EQ(FactorsFor(c, 1000), RopeFactors::kShort);
  const std::vector<float> table = *RopeTable(c);
  ASSERT_EQ(table.size(), 100 * 8u);
  EXPECT_EQ(table[99 * 8 + 3], static_cast<float>(std::cos(static_cast<double>(99 * f[3]))));
  c.factors = {1, 1.5, 4};
  EXPECT_EQ(ValidateRope(c).code(), absl::StatusCode::kInvalidArgument);
  c.factors = {1, 1.5, 4, -1};
  EXPECT_EQ(ValidateRope(c).code(), absl::StatusCode::kInvalidArgument);
}

TEST(Rope, LongRopeFactorsFollowTheLongestThatASequenceMayBecome) {
  const RopeConfig c = LongRope();
  EXPECT_EQ(FactorsFor(c, 1), RopeFactors::kShort);
  EXPECT_EQ(FactorsFor(c, 40), RopeFactors::kShort);
  EXPECT_EQ(FactorsFor(c, 41), RopeFactors::kLong);
  EXPECT_EQ(FactorsFor(DeepSeek(), 100000), RopeFactors::kShort);
  EXPECT_EQ(RopeRow(DeepSeek(), RopeFactors::kShort, 17), 17);
}

// Both parts of the table, also where the job serves less than the original context, against a table of one list.
TEST(Rope, LongRopeTableHasBothRotations) {
  for (const int64_t max_position : {100, 40, 7}) {
    RopeConfig c = LongRope();
    c.max_position = max_position;
    c.short_mscale = 1.5;
    c.long_mscale = 0.75;
    const std::vector<float> table = *RopeTable(c);
    EXPECT_EQ(static_cast<int64_t>(table.size()), RopeRow(c, RopeFactors::kLong, max_position) * c.dim);
    for (const RopeFactors factors : {RopeFactors::kShort, RopeFactors::kLong}) {
      const std::vector<float> f = RopeInverseFrequencies(c, factors);
      const bool is_short = factors == RopeFactors::kShort;
      const float scale = is_short ? 1.5f : 0.75f;
      for (int64_t p = 0; p < (is_short ? std::min<int64_t>(40, max_position) : max_position); ++p) {
        const float* row = &table[RopeRow(c, factors, p) * c.dim];
        for (int i = 0; i < 4; ++i) {
          const double angle = static_cast<float>(p) * f[i];
          ASSERT_EQ(row[i], static_cast<float>(std::cos(angle)) * scale);
          ASSERT_EQ(row[4 + i], static_cast<float>(std::sin(angle)) * scale);
        }
      }
    }
  }
}

TEST(Rope, LongRopeScaleOfTheTable) {
  RopeConfig c = LongRope();
  c.original_max_position = 4096;
  EXPECT_FLOAT_EQ((*RopeTable(c))[0], std::sqrt(1 + std::log(32.0) / std::log(4096.0)));  // Phi-3.5-MoE: 1.1902380714
  EXPECT_FLOAT_EQ((*RopeTable(c))[0], 1.1902380714);
  c.attention_factor = 1.25;
  EXPECT_EQ((*RopeTable(c))[0], 1.25f);
  c.short_mscale = 1.5;  // of the short list alone
  EXPECT_EQ((*RopeTable(c))[0], 1.5f);
  EXPECT_EQ((*RopeTable(c))[static_cast<size_t>(RopeRow(c, RopeFactors::kLong, 0) * c.dim)], 1.25f);
  EXPECT_FLOAT_EQ(AttentionScale(c, 16), 0.25f);
}

TEST(Rope, RefusesWhatMakesNoTable) {
  using testing::HasSubstr;
  const auto expect_error = [](auto change, const char* text) {
    RopeConfig c = DeepSeek();
    change(c);
    const absl::Status status = ValidateRope(c);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(status.message()), HasSubstr(text));
    EXPECT_EQ(RopeTable(c).status(), status);
  };
  expect_error([](RopeConfig& c) { c.dim = 63; }, "dim is 63");
  expect_error([](RopeConfig& c) { c = LongRope(), c.long_factors.pop_back(); },
               "long_factor has 3 factors, must have 4");
  expect_error([](RopeConfig& c) { c = LongRope(), c.short_factors[2] = 0; }, "short_factor has 0, must be positive");
  expect_error([](RopeConfig& c) { c = LongRope(), c.long_mscale = -1; }, "long_mscale is -1");
  expect_error([](RopeConfig& c) { c = LongRope(), c.original_max_position = 1; }, "must be at least 2");
  expect_error([](RopeConfig& c) { c = LongRope(), c.attention_factor = 0; }, "attention_factor is 0");
  expect_error([](RopeConfig& c) { c.dim = 0; }, "dim is 0");
  expect_error([](RopeConfig& c) { c.max_position = 0; }, "max_position is 0");
  expect_error([](RopeConfig& c) { c.max_position = int64_t{1} << 40; }, "max_position is 1099511627776");
  expect_error([](RopeConfig& c) { c.theta = 1; }, "theta is 1");
  expect_error([](RopeConfig& c) { c.theta = std::nan(""); }, "theta is nan");
  expect_error([](RopeConfig& c) { c.factor = 0; }, "factor is 0");
  expect_error([](RopeConfig& c) { c.original_max_position = 0; }, "original_max_position_embeddings is 0");
  expect_error([](RopeConfig& c) { c.beta_slow = 0; }, "beta_slow 0");
  expect_error([](RopeConfig& c) { c.mscale = -1; }, "mscale -1");
  expect_error([](RopeConfig& c) { c.attention_factor = 0; }, "attention_factor is 0");
}

}  // namespace
}  // namespace tokenferry

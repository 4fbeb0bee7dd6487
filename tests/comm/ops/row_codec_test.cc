// Narrow formats of rows: against the nearest of all codes, and over whole exchanges.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <random>

#include "absl/strings/str_cat.h"
#include "comm/ops/row_codec_ops.h"
#include "core/formats/scalar.h"
#include "core/host/isa.h"
#include "tests/comm/exchange/exchange_case.h"
#include "tests/comm/transport/rank_group.h"

namespace tokenferry {
namespace {

template <class Args>
void RunOn(Isa isa, const Op<Args>& op, const Args& args) {
  ThreadPool pool(3);
  CpuContext context{pool, isa};
  op.cpu(args, context);
}

// Of all finite codes the one whose value is nearest to x, ties to the even code; sign kept.
uint8_t NearestCode(double x, DType dtype) {
  if (dtype == DType::kI8) {
    int best = 0;
    for (int c = -127; c <= 127; ++c) {
      const double d = std::abs(x - c), b = std::abs(x - best);
      if (d < b || (d == b && c % 2 == 0)) best = c;
    }
    return static_cast<uint8_t>(static_cast<int8_t>(best));
  }
  int best = 0;
  for (int c = 0; c < 0x7F; ++c) {
    const double d = std::abs(std::abs(x) - ToFloat(F8E4M3{static_cast<uint8_t>(c)}));
    const double b = std::abs(std::abs(x) - ToFloat(F8E4M3{static_cast<uint8_t>(best)}));
    if (d < b || (d == b && c % 2 == 0)) best = c;
  }
  return static_cast<uint8_t>(best | (std::signbit(x) ? 0x80 : 0));
}

struct Problem {
  int64_t hidden, num_rows;
  std::vector<float> src;
  std::vector<int32_t> idx;
};

Problem RandomProblem(int64_t hidden, int64_t num_rows, std::mt19937& random) {
  Problem p{hidden, num_rows, {}, {}};
  std::uniform_real_distribution<float> uniform(-1.0f, 1.0f);
  for (int64_t i = 0; i < (num_rows + 1) * hidden; ++i) {
    const float kinds[] = {uniform(random), std::ldexp(uniform(random), -static_cast<int>(random() % 20)), 0.0f, -0.0f,
                           std::ldexp(static_cast<float>(random() % 449), -9)};
    p.src.push_back(kinds[random() % 5]);
  }
  for (int64_t i = 0; i < num_rows; ++i) p.idx.push_back(static_cast<int32_t>(random() % (num_rows + 1)));
  return p;
}

std::vector<uint8_t> Quantise(const Problem& p, DType dtype) {
  std::vector<uint8_t> out(p.num_rows * RowBytes(dtype, p.hidden) + 1, 0xA5);
  const QuantiseRowsArgs args{MatrixView<const float>{p.src.data(), p.num_rows + 1, p.hidden, p.hidden}, p.idx.data(),
                              p.num_rows, out.data(), dtype};
  kQuantiseRows.reference(args);
  EXPECT_EQ(out.back(), 0xA5);
  for (int isa = 0; isa < 32; ++isa) {
    if (!(SupportedIsas() >> isa & 1)) continue;
    std::vector<uint8_t> fast(out.size(), 0xA5);
    QuantiseRowsArgs other = args;
    other.out = fast.data();
    RunOn(static_cast<Isa>(isa), kQuantiseRows, other);
    EXPECT_EQ(fast, out) << "isa " << isa << ", hidden " << p.hidden;
  }
  return out;
}

std::vector<float> Widen(const Problem& p, DType dtype, const std::vector<uint8_t>& rows) {
  std::vector<float> out(p.num_rows * p.hidden + 1, 7.0f);
  WidenRowsArgs args{rows.data(), dtype, p.num_rows, p.hidden, out.data(), DType::kF32};
  kWidenRows.reference(args);
  std::vector<BF16> narrow(out.size()), fast_narrow(out.size());
  args.out_dtype = DType::kBF16;
  args.out = narrow.data();
  kWidenRows.reference(args);
  for (size_t i = 0; i + 1 < out.size(); ++i) EXPECT_EQ(narrow[i], ToBF16(out[i]));
  for (int isa = 0; isa < 32; ++isa) {
    if (!(SupportedIsas() >> isa & 1)) continue;
    std::vector<float> fast(out.size(), 7.0f);
    args.out_dtype = DType::kF32;
    args.out = fast.data();
    RunOn(static_cast<Isa>(isa), kWidenRows, args);
    EXPECT_EQ(std::memcmp(fast.data(), out.data(), out.size() * sizeof(float)), 0) << "isa " << isa;
    args.out_dtype = DType::kBF16;
    args.out = fast_narrow.data();
    RunOn(static_cast<Isa>(isa), kWidenRows, args);
    EXPECT_EQ(fast_narrow, narrow) << "isa " << isa;
  }
  return out;
}

TEST(RowCodec, CodesAreTheNearestAndAllKernelsAgree) {
  const uint32_t seed = std::random_device{}();
  SCOPED_TRACE(absl::StrCat("seed ", seed));
  std::mt19937 random(seed);
  for (const DType dtype : {DType::kF8E4M3, DType::kI8}) {
    for (const int64_t hidden : {1, 7, 127, 128, 129, 300, 512}) {
      for (const int64_t num_rows : {0, 1, 13}) {
        const Problem p = RandomProblem(hidden, num_rows, random);
        const std::vector<uint8_t> rows = Quantise(p, dtype);
        const std::vector<float> wide = Widen(p, dtype, rows);
        const int64_t blocks = (hidden + 127) / 128;
        ASSERT_EQ(RowBytes(dtype, hidden), hidden + 4 * blocks);
        for (int64_t i = 0; i < num_rows * hidden; ++i) {
          const int64_t r = i / hidden, h = i % hidden, start = h / 128 * 128;
          const float* src = p.src.data() + p.idx[r] * hidden;
          float largest = 0, scale = 0;
          for (int64_t j = start; j < std::min(hidden, start + 128); ++j) largest = std::max(largest, std::abs(src[j]));
          const uint8_t* row = rows.data() + r * RowBytes(dtype, hidden);
          std::memcpy(&scale, row + hidden + 4 * (h / 128), 4);
          ASSERT_EQ(scale, largest / (dtype == DType::kI8 ? 127.0f : 448.0f));
          if (scale == 0) {
            ASSERT_EQ(row[h], 0);
          } else {
            ASSERT_EQ(row[h], NearestCode(src[h] / scale, dtype)) << src[h] << " / " << scale;
          }
          // Half a step of the block's largest value: E4M3 has 3 bits after the point, so 2^-4 of the value or, below
          // 2^-6, 2^-10 of scale; int8 half a scale. And the two roundings of division and product, 2^-23 each at most.
          const float step = dtype == DType::kI8 ? scale / 2 : std::max(std::abs(src[h]) / 16, scale * 0x1p-10f);
          ASSERT_LE(std::abs(wide[i] - src[h]), step * 1.0001f + std::abs(src[h]) * 0x1p-22f);
        }
      }
    }
  }
}

TEST(RowCodec, WhatIsNotFiniteStaysVisibleAndTinyBlocksAreZero) {
  const float inf = std::numeric_limits<float>::infinity(), nan = std::nanf(""), tiny = 0x1p-149f;
  for (const DType dtype : {DType::kF8E4M3, DType::kI8}) {
    for (const float bad : {inf, -inf, nan, tiny}) {
      Problem p{256, 1, std::vector<float>(512, 0.0f), {1}};
      p.src[256 + 3] = bad;
      p.src[256 + 128] = 1.0f;
      const std::vector<float> wide = Widen(p, dtype, Quantise(p, dtype));
      for (int i = 0; i < 128; ++i) EXPECT_TRUE(bad == tiny ? wide[i] == 0 : std::isnan(wide[i])) << bad;
      EXPECT_NEAR(wide[128], 1.0f, 0x1p-22f);
      EXPECT_EQ(wide[129], 0.0f);
    }
    Problem small{1, 1, {0, 190 * tiny}, {1}};  // 190 / 127 units round to one: the code saturates
    EXPECT_GT(Widen(small, dtype, Quantise(small, dtype))[0], -1.0f);
  }
}

class NarrowExchange : public testing::TestWithParam<std::tuple<ExchangePath, int>> {};

TEST_P(NarrowExchange, EqualsTheDenseReference) {
  const uint32_t seed = std::random_device{}();
  SCOPED_TRACE(absl::StrCat("seed ", seed));
  const auto [path, num_ranks] = GetParam();
  for (const CpuExecution execution : {CpuExecution::kEager, CpuExecution::kLazy}) {
    ExchangeRun run{.device = {.num_threads = 2, .isa = BestIsa(SupportedIsas()), .execution = execution}};
    run.num_rounds = 2;
    run.path = path;
    run.formats = Formats::kAll;
    RunThreads(Backend::kLocal, num_ranks, absl::Seconds(60), [&](Transport& t) { RunRandomCases(t, seed, 25, run); });
  }
}

INSTANTIATE_TEST_SUITE_P(Ranks, NarrowExchange,
                         testing::Combine(testing::Values(ExchangePath::kAllToAllV, ExchangePath::kPeer),
                                          testing::Values(1, 2, 3, 5)));

}  // namespace
}  // namespace tokenferry

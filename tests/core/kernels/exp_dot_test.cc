// The scalar exp against double, and the Highway twins of exp and dot against the scalars, bit for bit.
#include <cmath>
#include <random>

#include "core/host/isa.h"
#include "core/kernels/dot.h"
#include "core/kernels/exp.h"
#include "gtest/gtest.h"
#include "tests/core/kernels/kernel_test_util.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "tests/core/kernels/exp_dot_test.cc"
#include "core/kernels/simd_targets.h"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
// After highway.h, once per target.
#include "core/kernels/dot-inl.h"
#include "core/kernels/exp-inl.h"

#if TF_SIMD_TARGET
HWY_BEFORE_NAMESPACE();
namespace tokenferry {
namespace HWY_NAMESPACE {

// `size` is a multiple of 16.
void ExpAll(const float* x, float* y, int64_t size) {
  const F32Tag d;
  for (int64_t i = 0; i < size; i += kVecLanes) hn::StoreU(ExpF32(d, hn::LoadU(d, x + i)), d, y + i);
}

float Dot(const float* a, const float* b, int64_t size) { return DotF32(a, b, size); }

}  // namespace HWY_NAMESPACE
}  // namespace tokenferry
HWY_AFTER_NAMESPACE();
#endif  // TF_SIMD_TARGET

#if HWY_ONCE
namespace tokenferry {
namespace {

void PlainExpAll(const float* x, float* y, int64_t size) {
  for (int64_t i = 0; i < size; ++i) y[i] = ExpF32(x[i]);
}

TEST(Exp, IsWithinTwoUlpOfDouble) {
  double worst = 0.0;
  for (uint64_t bits = 0; bits < (1ull << 32); bits += 997) {
    const float x = std::bit_cast<float>(static_cast<uint32_t>(bits));
    if (std::isnan(x)) continue;
    const double exact = std::exp(static_cast<double>(x));
    const float got = ExpF32(x);
    // At 2^128 - 2^103 rounding to nearest goes to infinity.
    if (exact >= 0x1.ffffffp127 || std::isinf(got)) {
      EXPECT_TRUE(std::isinf(got) && exact >= 0x1.fffffcp127) << x;
      continue;
    }
    int exponent;
    std::frexp(exact, &exponent);
    worst = std::max(worst, std::fabs(got - exact) / std::ldexp(1.0, std::max(exponent - 24, -149)));
  }
  RecordProperty("worst_ulp", std::to_string(worst));
  EXPECT_LE(worst, 2.0);
}

TEST(Exp, SpecialValues) {
  const float inf = std::numeric_limits<float>::infinity();
  EXPECT_EQ(ExpF32(0.0f), 1.0f);
  EXPECT_EQ(ExpF32(-0.0f), 1.0f);
  EXPECT_EQ(ExpF32(inf), inf);
  EXPECT_EQ(ExpF32(-inf), 0.0f);
  EXPECT_FALSE(std::signbit(ExpF32(-inf)));
  EXPECT_EQ(std::bit_cast<uint32_t>(ExpF32(-std::numeric_limits<float>::quiet_NaN())), 0x7FC00000u);
}

TEST(Exp, EveryInstructionSetGivesTheSameBits) {
  std::vector<float> x;
  for (uint64_t bits = 0; bits < (1ull << 32); bits += 4099)
    x.push_back(std::bit_cast<float>(static_cast<uint32_t>(bits)));
  for (float v = -110.0f; v < 95.0f; v += 0.000371f) x.push_back(v);
  x.resize(x.size() / 16 * 16);
  std::vector<float> expected(x.size());
  PlainExpAll(x.data(), expected.data(), static_cast<int64_t>(x.size()));
  for (Isa isa : SupportedIsaList()) {
    std::vector<float> got(x.size());
    TF_SIMD_CHOOSE(isa, ExpAll, PlainExpAll)(x.data(), got.data(), static_cast<int64_t>(x.size()));
    EXPECT_TRUE(SameBytes(got, expected)) << IsaName(isa);
  }
}

TEST(Dot, EveryInstructionSetGivesTheSameBits) {
  std::mt19937 random(31);
  for (int64_t size : {0, 1, 7, 15, 16, 17, 31, 32, 33, 100, 512, 1021}) {
    const std::vector<float> a = RandomFloats(size, random), b = RandomFloats(size, random);
    const float expected = DotF32(a.data(), b.data(), size);
    for (Isa isa : SupportedIsaList()) {
      const float got = TF_SIMD_CHOOSE(isa, Dot, DotF32)(a.data(), b.data(), size);
      EXPECT_EQ(std::bit_cast<uint32_t>(got), std::bit_cast<uint32_t>(expected)) << IsaName(isa) << " " << size;
    }
  }
}

}  // namespace
}  // namespace tokenferry
#endif  // HWY_ONCE

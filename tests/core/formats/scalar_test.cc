// core/formats/scalar.h against an implementation that shares nothing with it: a table of every value a format can
// represent, built with ldexp from its sign, exponent and mantissa fields in double (exact: 53 bits), and rounding by
// looking for the two neighbours and comparing with their midpoint, which is exact in double too.
#include "core/formats/scalar.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

namespace tokenferry {
namespace {

enum class Overflow { kInfinity, kSaturate };

// values[c] is the value of the non-negative finite code c, increasing.
struct Format {
  std::vector<double> values;
  double beyond;  // the value that would follow the largest finite one
  Overflow overflow;
  uint32_t sign_bit;  // 0: no sign
};

Format MakeFormat(int exponent_bits, int mantissa_bits, int num_finite_codes, Overflow overflow) {
  Format f{{}, 0, overflow, 1u << (exponent_bits + mantissa_bits)};
  const int bias = (1 << (exponent_bits - 1)) - 1, num_mantissas = 1 << mantissa_bits;
  auto value = [&](int code) {
    const int exponent = code / num_mantissas, mantissa = code % num_mantissas;
    return exponent == 0 ? std::ldexp(mantissa, 1 - bias - mantissa_bits)
                         : std::ldexp(num_mantissas + mantissa, exponent - bias - mantissa_bits);
  };
  for (int code = 0; code < num_finite_codes; ++code) f.values.push_back(value(code));
  f.beyond = value(num_finite_codes);
  return f;
}

const Format& Bf16Format() {
  static const Format f = MakeFormat(8, 7, 0x7F80, Overflow::kInfinity);
  return f;
}
const Format& Fp16Format() {
  static const Format f = MakeFormat(5, 10, 0x7C00, Overflow::kInfinity);
  return f;
}
const Format& E4m3Format() {
  static const Format f = MakeFormat(4, 3, 0x7F, Overflow::kSaturate);
  return f;
}
const Format& E5m2Format() {
  static const Format f = MakeFormat(5, 2, 0x7C, Overflow::kInfinity);
  return f;
}

// The code of finite `x`, and the sign in f.sign_bit. Code values.size() is infinity.
uint32_t Narrow(const Format& f, float x) {
  const double magnitude = std::fabs(static_cast<double>(x));
  const uint32_t sign = std::signbit(x) ? f.sign_bit : 0;
  const uint32_t largest = static_cast<uint32_t>(f.values.size()) - 1;
  // The largest code whose value is not above x.
  const auto above = std::upper_bound(f.values.begin(), f.values.end(), magnitude);
  const uint32_t low = static_cast<uint32_t>(above - f.values.begin()) - 1;
  if (low == largest && f.overflow == Overflow::kSaturate) return sign | largest;
  const double midpoint = (f.values[low] + (low == largest ? f.beyond : f.values[low + 1])) / 2;
  const bool up = magnitude > midpoint || (magnitude == midpoint && low % 2 == 1);
  return sign | (low + (up ? 1 : 0));
}

template <class T>
struct Traits;
template <>
struct Traits<BF16> {
  static const Format& format() { return Bf16Format(); }
  static BF16 From(float x) { return ToBF16(x); }
  static constexpr uint32_t kNumCodes = 1 << 16;
};
template <>
struct Traits<FP16> {
  static const Format& format() { return Fp16Format(); }
  static FP16 From(float x) { return ToFP16(x); }
  static constexpr uint32_t kNumCodes = 1 << 16;
};
template <>
struct Traits<F8E4M3> {
  static const Format& format() { return E4m3Format(); }
  static F8E4M3 From(float x) { return ToF8E4M3(x); }
  static constexpr uint32_t kNumCodes = 1 << 8;
};
template <>
struct Traits<F8E5M2> {
  static const Format& format() { return E5m2Format(); }
  static F8E5M2 From(float x) { return ToF8E5M2(x); }
  static constexpr uint32_t kNumCodes = 1 << 8;
};

template <class T>
class ScalarTest : public testing::Test {
 protected:
  static void ExpectNarrow(float x) {
    const uint32_t want = Narrow(Traits<T>::format(), x), got = Traits<T>::From(x).bits;
    ASSERT_EQ(got, want) << "of " << std::hexfloat << x;
  }
  static void ExpectNarrowAround(double magnitude) {
    const float x = static_cast<float>(magnitude);
    ASSERT_EQ(x, magnitude) << "the test's boundaries are floats";
    for (float sign : {1.0f, -1.0f}) {
      ExpectNarrow(sign * x);
      ExpectNarrow(sign * std::nextafter(x, 0.0f));
      ExpectNarrow(sign * std::nextafter(x, std::numeric_limits<float>::max()));
    }
  }
};
using Types = testing::Types<BF16, FP16, F8E4M3, F8E5M2>;
TYPED_TEST_SUITE(ScalarTest, Types);

TYPED_TEST(ScalarTest, EveryCodeHasItsValueAndComesBack) {
  const Format& f = Traits<TypeParam>::format();
  int num_nan = 0;
  for (uint32_t code = 0; code < Traits<TypeParam>::kNumCodes; ++code) {
    TypeParam narrow;
    narrow.bits = static_cast<decltype(narrow.bits)>(code);
    const float x = ToFloat(narrow);
    const bool negative = (code & f.sign_bit) != 0;
    const uint32_t magnitude = code & ~f.sign_bit;
    ASSERT_EQ(std::signbit(x), negative) << code;
    if (magnitude < f.values.size()) {
      ASSERT_EQ(std::fabs(static_cast<double>(x)), f.values[magnitude]) << code;
    } else if (f.overflow == Overflow::kInfinity && magnitude == f.values.size()) {
      ASSERT_TRUE(std::isinf(x)) << code;
    } else {
      ASSERT_TRUE(std::isnan(x)) << code;
      ++num_nan;
      ASSERT_TRUE(std::isnan(ToFloat(Traits<TypeParam>::From(x)))) << code;
      ASSERT_EQ(std::signbit(ToFloat(Traits<TypeParam>::From(x))), negative) << code;
      continue;
    }
    ASSERT_EQ(Traits<TypeParam>::From(x).bits, code);
  }
  EXPECT_GT(num_nan, 0);
}

TYPED_TEST(ScalarTest, EveryBoundaryRoundsToNearestTiesToEven) {
  const Format& f = Traits<TypeParam>::format();
  for (size_t code = 0; code < f.values.size(); ++code) {
    const double value = f.values[code], next = code + 1 < f.values.size() ? f.values[code + 1] : f.beyond;
    this->ExpectNarrowAround(value);
    this->ExpectNarrowAround((value + next) / 2);
    if (this->HasFatalFailure()) return;
  }
}

TYPED_TEST(ScalarTest, RandomFloats) {
  const uint32_t seed = std::random_device{}();
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937 random(seed);
  const Format& f = Traits<TypeParam>::format();
  std::uniform_real_distribution<double> exponent(std::log2(f.values[1]) - 3, std::log2(f.beyond) + 2);
  std::uniform_real_distribution<double> mantissa(1.0, 2.0);
  for (int i = 0; i < 300000; ++i) {
    const float any = internal::FloatFromBits(random());
    if (std::isfinite(any)) this->ExpectNarrow(any);
    const float in_range = static_cast<float>(std::ldexp(mantissa(random), static_cast<int>(exponent(random))));
    if (std::isfinite(in_range)) this->ExpectNarrow(random() % 2 == 0 ? in_range : -in_range);
    if (this->HasFatalFailure()) return;
  }
}

TYPED_TEST(ScalarTest, InfinitiesAndNans) {
  const Format& f = Traits<TypeParam>::format();
  const float infinity = std::numeric_limits<float>::infinity();
  const float of_infinity = ToFloat(Traits<TypeParam>::From(infinity));
  EXPECT_EQ(of_infinity, f.overflow == Overflow::kInfinity ? infinity : 448.0f);
  EXPECT_EQ(ToFloat(Traits<TypeParam>::From(-infinity)), -of_infinity);
  EXPECT_EQ(ToFloat(Traits<TypeParam>::From(std::numeric_limits<float>::max())), of_infinity);
  // Every NaN, of either sign, with a payload in its lowest bit or elsewhere, quiet or signalling.
  for (uint32_t payload : {0x1u, 0x2u, 0x1000u, 0x200000u, 0x400000u, 0x7FFFFFu}) {
    for (uint32_t sign : {0u, 0x80000000u}) {
      const float nan = internal::FloatFromBits(sign | 0x7F800000u | payload);
      const float back = ToFloat(Traits<TypeParam>::From(nan));
      EXPECT_TRUE(std::isnan(back)) << payload;
      EXPECT_EQ(std::signbit(back), sign != 0) << payload;
    }
  }
}

// What the formats' documents give as examples (OCP OFP8 v1.0, table 1; IEEE 754 binary16).
TEST(ScalarExamplesTest, KnownCodes) {
  EXPECT_EQ(ToFloat(F8E4M3{0x7E}), 448.0f);
  EXPECT_EQ(ToFloat(F8E4M3{0x08}), 0x1p-6f);
  EXPECT_EQ(ToFloat(F8E4M3{0x01}), 0x1p-9f);
  EXPECT_EQ(ToFloat(F8E5M2{0x7B}), 57344.0f);
  EXPECT_EQ(ToFloat(F8E5M2{0x01}), 0x1p-16f);
  EXPECT_EQ(ToFloat(FP16{0x7BFF}), 65504.0f);
  EXPECT_EQ(ToFloat(FP16{0x0001}), 0x1p-24f);
  EXPECT_EQ(ToFloat(BF16{0x3F80}), 1.0f);
  EXPECT_EQ(ToFloat(UE8M0{127}), 1.0f);
}

TEST(UE8M0Test, EveryCodeHasItsValueAndComesBack) {
  for (int code = 0; code < 255; ++code) {
    const float x = ToFloat(UE8M0{static_cast<uint8_t>(code)});
    EXPECT_EQ(static_cast<double>(x), std::ldexp(1.0, code - 127));
    EXPECT_EQ(ToUE8M0(x).bits, code);
  }
  EXPECT_TRUE(std::isnan(ToFloat(UE8M0{255})));
}

uint32_t NarrowToUE8M0(float x) {
  if (!(x >= 0) || std::isinf(x)) return 255;
  static const Format f = [] {
    Format powers{{}, std::ldexp(1.0, 128), Overflow::kSaturate, 0};
    for (int code = 0; code < 255; ++code) powers.values.push_back(std::ldexp(1.0, code - 127));
    return powers;
  }();
  return x < f.values[0] ? 0 : Narrow(f, x);
}

TEST(UE8M0Test, RoundsToNearest) {
  const float infinity = std::numeric_limits<float>::infinity();
  std::vector<float> inputs = {
      0.0f, -0.0f, infinity, -infinity, -1.0f, -0x1p-149f, 0x1p-149f, std::numeric_limits<float>::max(), std::nanf("")};
  for (int code = 0; code < 255; ++code) {
    const float power = std::ldexp(1.0f, code - 127);
    for (float x : {power, 1.5f * power}) {
      inputs.push_back(x);
      inputs.push_back(std::nextafter(x, 0.0f));
      inputs.push_back(std::nextafter(x, infinity));
    }
  }
  const uint32_t seed = std::random_device{}();
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937 random(seed);
  for (int i = 0; i < 300000; ++i) inputs.push_back(internal::FloatFromBits(random()));
  for (float x : inputs) ASSERT_EQ(ToUE8M0(x).bits, NarrowToUE8M0(x)) << std::hexfloat << x;
}

}  // namespace
}  // namespace tokenferry

// f16, bf16 and e4m3 as numbers. Rounding is to nearest even, once, from an exact or a round-to-odd double.
#pragma once

#include <cmath>
#include <cstdint>

#include "tests/fakegpu/ptx/lanes.h"

namespace tokenferry::fakegpu {

struct HalfFormat {
  int mantissa_bits, min_exponent, max_exponent;  // of normal numbers
};
inline constexpr HalfFormat kF16Format{10, -14, 15}, kBF16Format{7, -126, 127}, kE4M3Format{3, -6, 8};

enum class Rounding : uint8_t { kNearest, kToZero };

// x times 2^n, where that is neither subnormal nor too large, without ldexp's call.
inline double Scale(double x, int n) { return x * std::bit_cast<double>(static_cast<uint64_t>(1023 + n) << 52); }

// The value on the format's grid (which may be beyond its largest number).
inline double RoundToFormat(double x, const HalfFormat& f, Rounding rounding = Rounding::kNearest) {
  if (x == 0 || !std::isfinite(x)) return x;
  const int exponent = std::max(std::ilogb(x), f.min_exponent);
  const double scaled = Scale(x, f.mantissa_bits - exponent);  // exact; the format's numbers are the whole ones
  return Scale(rounding == Rounding::kNearest ? std::nearbyint(scaled) : std::trunc(scaled),
               exponent - f.mantissa_bits);
}

inline uint16_t ToHalfBits(double x, const HalfFormat& f, Rounding rounding = Rounding::kNearest) {
  const int exponent_bits = 15 - f.mantissa_bits;
  if (x != x) return 0x7FFF;
  const uint16_t sign = std::signbit(x) ? 0x8000 : 0;
  double a = std::fabs(RoundToFormat(x, f, rounding));
  const double largest = Scale(2 - Scale(1, -f.mantissa_bits), f.max_exponent);
  if (a > largest) {
    if (rounding == Rounding::kToZero && std::isfinite(x))
      a = largest;
    else
      return sign | static_cast<uint16_t>(((1 << exponent_bits) - 1) << f.mantissa_bits);
  }
  if (a < Scale(1, f.min_exponent)) return sign | static_cast<uint16_t>(Scale(a, f.mantissa_bits - f.min_exponent));
  const int exponent = std::ilogb(a);
  const auto mantissa = static_cast<uint16_t>(Scale(a, f.mantissa_bits - exponent)) & ((1 << f.mantissa_bits) - 1);
  return sign | static_cast<uint16_t>((exponent - f.min_exponent + 1) << f.mantissa_bits) |
         static_cast<uint16_t>(mantissa);
}

inline double FromHalfBits(uint16_t bits, const HalfFormat& f) {
  const int exponent_bits = 15 - f.mantissa_bits;
  const int exponent = bits >> f.mantissa_bits & ((1 << exponent_bits) - 1),
            mantissa = bits & ((1 << f.mantissa_bits) - 1);
  double a = 0;
  if (exponent == (1 << exponent_bits) - 1)
    a = mantissa != 0 ? NAN : INFINITY;
  else if (exponent == 0)
    a = Scale(mantissa, f.min_exponent - f.mantissa_bits);
  else
    a = Scale(mantissa + (1 << f.mantissa_bits), exponent - 1 + f.min_exponent - f.mantissa_bits);
  return bits & 0x8000 ? -a : a;
}

// e4m3 has no infinity: codes 0x7F and 0xFF are NaN, 448 is the largest number.
inline uint8_t ToE4M3Saturated(float x) {
  if (x != x) return 0x7F;
  const uint8_t sign = std::signbit(x) ? 0x80 : 0;
  const double a = std::min(std::fabs(RoundToFormat(x, kE4M3Format)), 448.0);
  if (a < Scale(1, -6)) return sign | static_cast<uint8_t>(Scale(a, 9));
  const int exponent = std::ilogb(a);
  return sign | static_cast<uint8_t>((exponent + 7) << 3) | (static_cast<uint8_t>(Scale(a, 3 - exponent)) & 7);
}

inline double FromE4M3(uint8_t code) {
  const int exponent = code >> 3 & 15, mantissa = code & 7;
  double a = exponent == 0 ? Scale(mantissa, -9) : Scale(8 + mantissa, exponent - 10);
  if ((code & 0x7F) == 0x7F) a = NAN;
  return code & 0x80 ? -a : a;
}

// x + y, with its last bit odd if it is not exact: rounding that to fewer than 51 bits is the one rounding of the sum.
inline double SumRoundedToOdd(double x, double y) {
  const double sum = x + y;
  if (!std::isfinite(sum)) return sum;
  const double part = sum - x, error = (x - (sum - part)) + (y - part);
  if (error == 0 || (std::bit_cast<uint64_t>(sum) & 1)) return sum;
  return std::nextafter(sum, error > 0 ? INFINITY : -INFINITY);
}

}  // namespace tokenferry::fakegpu

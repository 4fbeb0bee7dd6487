// Narrow floating-point scalars and their exact or rounded conversions; shared by host and device code.
//
// bf16: 1-8-7. fp16: IEEE binary16. E4M3: 1-4-3, bias 7, no infinity, S.1111.111 = NaN, max 448 (OCP OFP8 "E4M3").
// E5M2: 1-5-2, bias 15, IEEE-like infinities and NaN. UE8M0: 2^(code - 127), 255 = NaN (OCP MX scale).
// Conversions to a narrow type round to nearest, ties to even. Overflow: bf16, fp16 and E5M2 give infinity,
// E4M3 saturates to +-448 (as training frameworks' saturating casts do). NaN gives NaN (quiet, sign kept).
// Conversions to float are exact; NaN gives NaN. They rely on subnormals: a thread must not flush them to zero.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#define TF_HOST_DEVICE __host__ __device__
#else
#define TF_HOST_DEVICE
#endif

namespace tokenferry {

struct BF16 {
  uint16_t bits = 0;
  friend bool operator==(BF16, BF16) = default;
};
struct FP16 {
  uint16_t bits = 0;
  friend bool operator==(FP16, FP16) = default;
};
struct F8E4M3 {
  uint8_t bits = 0;
  friend bool operator==(F8E4M3, F8E4M3) = default;
};
struct F8E5M2 {
  uint8_t bits = 0;
  friend bool operator==(F8E5M2, F8E5M2) = default;
};
struct UE8M0 {
  uint8_t bits = 0;
  friend bool operator==(UE8M0, UE8M0) = default;
};

namespace internal {
// The built-in, because std::bit_cast is no device function.
TF_HOST_DEVICE inline float FloatFromBits(uint32_t bits) { return __builtin_bit_cast(float, bits); }
TF_HOST_DEVICE inline uint32_t BitsFromFloat(float x) { return __builtin_bit_cast(uint32_t, x); }

// Rounds finite |x| (as f32 bits without sign) to `mantissa_bits` of a format with exponent bias `bias`, ties to even.
// Returns the unsigned code; may exceed the format's largest finite code, which the caller clamps.
TF_HOST_DEVICE inline uint32_t RoundToSmallFloat(uint32_t magnitude, int mantissa_bits, int bias) {
  const int exponent = static_cast<int>(magnitude >> 23) - 127;
  if (magnitude == 0 || exponent < -126 - 23) return 0;
  uint32_t significand = (magnitude & 0x7FFFFFu) | (magnitude >> 23 ? 0x800000u : 0u);
  int shift = 23 - mantissa_bits;  // bits to drop for a normal result
  const int min_exponent = 1 - bias;
  const int e = magnitude >> 23 ? exponent : -126;
  if (e < min_exponent) shift += min_exponent - e;  // subnormal result: drop more
  if (shift > 25) return 0;
  const uint32_t half = 1u << (shift - 1);
  const uint32_t rest = significand & ((1u << shift) - 1);
  uint32_t q = significand >> shift;
  if (rest > half || (rest == half && (q & 1))) ++q;
  if (e < min_exponent) return q;  // may carry into the smallest normal, which is the right code
  return (static_cast<uint32_t>(e + bias) << mantissa_bits) + q - (1u << mantissa_bits);
}
}  // namespace internal

TF_HOST_DEVICE inline float ToFloat(float x) { return x; }
TF_HOST_DEVICE inline float ToFloat(BF16 x) { return internal::FloatFromBits(static_cast<uint32_t>(x.bits) << 16); }

TF_HOST_DEVICE inline BF16 ToBF16(float x) {
  const uint32_t bits = internal::BitsFromFloat(x);
  if ((bits & 0x7FFFFFFFu) > 0x7F800000u) return BF16{static_cast<uint16_t>((bits >> 16) | 0x40u)};
  return BF16{static_cast<uint16_t>((bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16)};
}

TF_HOST_DEVICE inline float ToFloat(FP16 x) {
  const uint32_t sign = static_cast<uint32_t>(x.bits & 0x8000u) << 16, m = x.bits & 0x7FFFu;
  if (m >= 0x7C00u) return internal::FloatFromBits(sign | 0x7F800000u | ((m & 0x3FFu) << 13));
  // Shifting the fields up and multiplying by 2^(127-15) is exact, also for subnormals.
  return internal::FloatFromBits(sign | internal::BitsFromFloat(internal::FloatFromBits(m << 13) * 0x1p112f));
}

TF_HOST_DEVICE inline FP16 ToFP16(float x) {
  const uint32_t bits = internal::BitsFromFloat(x), m = bits & 0x7FFFFFFFu;
  const uint16_t sign = static_cast<uint16_t>((bits >> 16) & 0x8000u);
  if (m > 0x7F800000u) return FP16{static_cast<uint16_t>(sign | 0x7E00u)};
  if (m == 0x7F800000u) return FP16{static_cast<uint16_t>(sign | 0x7C00u)};
  const uint32_t code = internal::RoundToSmallFloat(m, 10, 15);
  return FP16{static_cast<uint16_t>(sign | (code > 0x7C00u ? 0x7C00u : code))};
}

TF_HOST_DEVICE inline float ToFloat(F8E4M3 x) {
  const uint32_t sign = static_cast<uint32_t>(x.bits & 0x80u) << 24, m = x.bits & 0x7Fu;
  if (m == 0x7Fu) return internal::FloatFromBits(sign | 0x7FC00000u);
  return internal::FloatFromBits(sign | internal::BitsFromFloat(internal::FloatFromBits(m << 20) * 0x1p120f));
}

TF_HOST_DEVICE inline F8E4M3 ToF8E4M3(float x) {
  const uint32_t bits = internal::BitsFromFloat(x), m = bits & 0x7FFFFFFFu;
  const uint8_t sign = static_cast<uint8_t>((bits >> 24) & 0x80u);
  if (m > 0x7F800000u) return F8E4M3{static_cast<uint8_t>(sign | 0x7Fu)};
  if (m == 0x7F800000u) return F8E4M3{static_cast<uint8_t>(sign | 0x7Eu)};
  const uint32_t code = internal::RoundToSmallFloat(m, 3, 7);
  return F8E4M3{static_cast<uint8_t>(sign | (code > 0x7Eu ? 0x7Eu : code))};
}

TF_HOST_DEVICE inline float ToFloat(F8E5M2 x) { return ToFloat(FP16{static_cast<uint16_t>(x.bits << 8)}); }

TF_HOST_DEVICE inline F8E5M2 ToF8E5M2(float x) {
  const uint32_t bits = internal::BitsFromFloat(x), m = bits & 0x7FFFFFFFu;
  const uint8_t sign = static_cast<uint8_t>((bits >> 24) & 0x80u);
  if (m > 0x7F800000u) return F8E5M2{static_cast<uint8_t>(sign | 0x7Eu)};
  if (m == 0x7F800000u) return F8E5M2{static_cast<uint8_t>(sign | 0x7Cu)};
  const uint32_t code = internal::RoundToSmallFloat(m, 2, 15);
  return F8E5M2{static_cast<uint8_t>(sign | (code > 0x7Cu ? 0x7Cu : code))};
}

TF_HOST_DEVICE inline float ToFloat(UE8M0 x) {
  if (x.bits == 0xFFu) return internal::FloatFromBits(0x7FC00000u);
  return internal::FloatFromBits(x.bits == 0 ? 0x00400000u : static_cast<uint32_t>(x.bits) << 23);
}

// Nearest power of two (ties to the even code), clamped to [2^-127, 2^127]; NaN, infinities and negatives give NaN.
TF_HOST_DEVICE inline UE8M0 ToUE8M0(float x) {
  const uint32_t bits = internal::BitsFromFloat(x);
  if (bits << 1 == 0) return UE8M0{0};  // both zeros
  if (bits >= 0x7F800000u) return UE8M0{0xFFu};
  // Between 2^e and 2^(e+1) the midpoint is 1.5 * 2^e; below 2^-126 codes 0 (2^-127) and 1 (2^-126) meet at 1.5 *
  // 2^-127.
  if (bits < 0x00800000u) return UE8M0{static_cast<uint8_t>(bits > 0x00600000u ? 1 : 0)};
  const uint32_t e = bits >> 23, fraction = bits & 0x7FFFFFu;
  const uint32_t up = fraction > 0x400000u || (fraction == 0x400000u && (e & 1));
  return UE8M0{static_cast<uint8_t>(e + up > 254 ? 254 : e + up)};
}

}  // namespace tokenferry

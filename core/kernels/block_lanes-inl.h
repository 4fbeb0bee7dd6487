// Blocks of GGUF files widened to f32 by vectors: the bits of DecodeBlocks (core/formats/block_decode.h), which says
// what each type is. Codes become bytes, 16 at a time, and those f32; products and sums are rounded one by one, as
// there. Per-target include: see core/kernels/simd_targets.h.
#if defined(TOKENFERRY_CORE_KERNELS_BLOCK_LANES_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef TOKENFERRY_CORE_KERNELS_BLOCK_LANES_INL_H_
#undef TOKENFERRY_CORE_KERNELS_BLOCK_LANES_INL_H_
#else
#define TOKENFERRY_CORE_KERNELS_BLOCK_LANES_INL_H_
#endif

#include <cstring>

#include "core/check.h"
#include "core/formats/block_decode.h"
#include "core/formats/weight_format.h"
#include "core/kernels/lanes-inl.h"

#if TF_SIMD_TARGET
HWY_BEFORE_NAMESPACE();
namespace tokenferry {
namespace HWY_NAMESPACE {

using Codes16Tag = hn::FixedTag<uint8_t, 16>;
using Codes16 = hn::Vec<Codes16Tag>;

// ---- 16 values ----

// Bytes [kVec * kVecLanes, (kVec + 1) * kVecLanes) of 16 signed ones.
template <int kVec>
HWY_INLINE F32Vec WidenBytesOf(Codes16 x) {
  const hn::FixedTag<int8_t, 16> d8;
  const hn::Rebind<int32_t, F32Tag> d32;
  auto bytes = hn::BitCast(d8, x);
  if constexpr (kVec > 0) bytes = hn::ShiftRightBytes<kVec * kVecLanes>(d8, bytes);
#if HWY_MAX_BYTES >= 64
  return hn::ConvertTo(F32Tag(), hn::PromoteTo(d32, bytes));
#else
  const auto eight = hn::LowerHalf(hn::FixedTag<int8_t, 8>(), bytes);
#if HWY_MAX_BYTES == 32
  return hn::ConvertTo(F32Tag(), hn::PromoteTo(d32, eight));
#else
  return hn::ConvertTo(F32Tag(), hn::PromoteTo(d32, hn::LowerHalf(hn::FixedTag<int8_t, 4>(), eight)));
#endif
#endif
}

HWY_INLINE Lanes WidenBytes(Codes16 x) {
  Lanes r;
  r.v[0] = WidenBytesOf<0>(x);
#if HWY_MAX_BYTES < 64
  r.v[1] = WidenBytesOf<1>(x);
#endif
#if HWY_MAX_BYTES < 32
  r.v[2] = WidenBytesOf<2>(x);
  r.v[3] = WidenBytesOf<3>(x);
#endif
  return r;
}

HWY_INLINE F32Vec HalfLanes(const uint8_t* p) {
  const hn::Rebind<uint16_t, F32Tag> d16;
  uint16_t bits;
  std::memcpy(&bits, p, sizeof(bits));
  return hn::PromoteTo(F32Tag(), hn::BitCast(hn::Rebind<hwy::float16_t, F32Tag>(), hn::Set(d16, bits)));
}

HWY_INLINE void StoreTimes(Codes16 numbers, F32Vec scale, float* values) {
  const Lanes x = WidenBytes(numbers);
  for (int v = 0; v < kVecs; ++v) hn::StoreU(hn::Mul(x.v[v], scale), F32Tag(), values + v * kVecLanes);
}

HWY_INLINE void StoreTimesPlus(Codes16 numbers, F32Vec scale, F32Vec add, float* values) {
  const Lanes x = WidenBytes(numbers);
  for (int v = 0; v < kVecs; ++v) {
    hn::StoreU(hn::Add(hn::Mul(x.v[v], scale), add), F32Tag(), values + v * kVecLanes);
  }
}

// ---- blocks of 32 ----

struct Codes32 {
  HWY_INLINE Codes32() {}  // as Lanes
  Codes16 v[2];
};

// The low halves of 16 bytes, then the high ones.
HWY_INLINE Codes32 LoadNibbles(const uint8_t* p) {
  const Codes16Tag d;
  const auto bytes = hn::LoadU(d, p);
  Codes32 r;
  r.v[0] = hn::And(bytes, hn::Set(d, 0x0F));
  r.v[1] = hn::ShiftRight<4>(bytes);
  return r;
}

// With a fifth bit of each from the 32 at `bits`, behind which there are 8 bytes.
HWY_INLINE Codes32 LoadFiveBits(const uint8_t* nibbles, const uint8_t* bits) {
  const Codes16Tag d;
  Codes32 r = LoadNibbles(nibbles);
  for (int h = 0; h < 2; ++h) {
    r.v[h] = hn::Or(r.v[h], hn::IfThenElseZero(hn::LoadMaskBits(d, bits + 2 * h), hn::Set(d, 0x10)));
  }
  return r;
}

HWY_INLINE void StoreMinus(const Codes32& codes, uint8_t zero, F32Vec scale, float* values) {
  for (int h = 0; h < 2; ++h) StoreTimes(hn::Sub(codes.v[h], hn::Set(Codes16Tag(), zero)), scale, values + 16 * h);
}

HWY_INLINE void StoreNumbersOf(WeightCoding coding, const uint8_t* nibbles, F32Vec scale, float* values) {
  const Codes16Tag d;
  const auto table = hn::BitCast(d, hn::LoadU(hn::FixedTag<int8_t, 16>(), CodeTable(coding)));
  const Codes32 codes = LoadNibbles(nibbles);
  for (int h = 0; h < 2; ++h) StoreTimes(hn::TableLookupBytes(table, codes.v[h]), scale, values + 16 * h);
}

HWY_INLINE void WidenQ4_0(const uint8_t* block, float* values) {
  StoreMinus(LoadNibbles(block + 2), 8, HalfLanes(block), values);
}

HWY_INLINE void WidenQ4_1(const uint8_t* block, float* values) {
  const Codes32 codes = LoadNibbles(block + 4);
  for (int h = 0; h < 2; ++h) StoreTimesPlus(codes.v[h], HalfLanes(block), HalfLanes(block + 2), values + 16 * h);
}

HWY_INLINE void WidenQ5_0(const uint8_t* block, float* values) {
  StoreMinus(LoadFiveBits(block + 6, block + 2), 16, HalfLanes(block), values);
}

HWY_INLINE void WidenQ5_1(const uint8_t* block, float* values) {
  const Codes32 codes = LoadFiveBits(block + 8, block + 4);
  for (int h = 0; h < 2; ++h) StoreTimesPlus(codes.v[h], HalfLanes(block), HalfLanes(block + 2), values + 16 * h);
}

HWY_INLINE void WidenQ8_0(const uint8_t* block, float* values) {
  for (int h = 0; h < 2; ++h) {
    StoreTimes(hn::LoadU(Codes16Tag(), block + 2 + 16 * h), HalfLanes(block), values + 16 * h);
  }
}

HWY_INLINE void WidenIq4Nl(const uint8_t* block, float* values) {
  StoreNumbersOf(WeightCoding::kIq4Nl, block + 2, HalfLanes(block), values);
}

HWY_INLINE void WidenMxfp4(const uint8_t* block, float* values) {
  StoreNumbersOf(WeightCoding::kE2M1, block + 1, hn::Set(F32Tag(), HalfOfE8M0(block[0])), values);
}

// ---- blocks of 256 ----

// products[0 .. 15]: 16 signed bytes times `scale`, from byte 8 on times `high_scale`.
HWY_INLINE void ScaleBytes(const void* bytes, F32Vec scale, F32Vec high_scale, float* products) {
  const F32Tag d;
  const Lanes x = WidenBytes(hn::LoadU(Codes16Tag(), static_cast<const uint8_t*>(bytes)));
  for (int v = 0; v < kVecs; ++v) {
    const F32Vec s = kVecLanes == 16     ? hn::IfThenElse(hn::FirstN(d, 8), scale, high_scale)
                     : v * kVecLanes < 8 ? scale
                                         : high_scale;
    hn::StoreU(hn::Mul(x.v[v], s), d, products + v * kVecLanes);
  }
}

// Of Q4_K and Q5_K: scales of eight groups of 32, then their minima, from two numbers of the block and 12 bytes in
// which each group has six bits of both. Four groups at a time: the last four keep their high bits above the first
// four's.
HWY_INLINE void GroupScales(const uint8_t* block, float* scales) {
  uint32_t packed[3];
  std::memcpy(packed, block + 4, sizeof(packed));
  const uint32_t six[4] = {packed[0] & 0x3F3F3F3Fu, (packed[2] & 0x0F0F0F0Fu) | (packed[0] >> 2 & 0x30303030u),
                           packed[1] & 0x3F3F3F3Fu, (packed[2] >> 4 & 0x0F0F0F0Fu) | (packed[1] >> 2 & 0x30303030u)};
  ScaleBytes(six, HalfLanes(block), HalfLanes(block + 2), scales);
}

template <bool kHasFifthBits>
HWY_INLINE void WidenK4(const uint8_t* block, float* values) {
  const Codes16Tag d;
  const F32Tag df;
  HWY_ALIGN float scales[16];
  GroupScales(block, scales);
  const uint8_t* fifth = block + 16;
  const uint8_t* nibbles = fifth + (kHasFifthBits ? 32 : 0);
  for (int h = 0; h < 2; ++h) {
    for (int pair = 0; pair < 4; ++pair) {
      Codes32 codes = LoadNibbles(nibbles + 32 * pair + 16 * h);
      for (int k = 0; k < 2; ++k) {
        const int group = 2 * pair + k;
        if (kHasFifthBits) {
          const auto has_bit = hn::TestBit(hn::LoadU(d, fifth + 16 * h), hn::Set(d, static_cast<uint8_t>(1 << group)));
          codes.v[k] = hn::Or(codes.v[k], hn::IfThenElseZero(has_bit, hn::Set(d, 0x10)));
        }
        // Plus the negated minimum is minus the minimum, bit for bit.
        StoreTimesPlus(codes.v[k], hn::Set(df, scales[group]), hn::Neg(hn::Set(df, scales[8 + group])),
                       values + 32 * group + 16 * h);
      }
    }
  }
}

HWY_INLINE void WidenQ6_K(const uint8_t* block, float* values) {
  const Codes16Tag d;
  const F32Tag df;
  HWY_ALIGN float scales[16];
  ScaleBytes(block + 192, HalfLanes(block + 208), HalfLanes(block + 208), scales);
  const auto high_bits = hn::Set(d, 0x30);
  for (int half = 0; half < 2; ++half) {
    for (int h = 0; h < 2; ++h) {
      const Codes32 first = LoadNibbles(block + 64 * half + 16 * h),
                    second = LoadNibbles(block + 64 * half + 32 + 16 * h);
      const auto high = hn::LoadU(d, block + 128 + 32 * half + 16 * h);
      const Codes16 codes[4] = {hn::Or(first.v[0], hn::And(hn::ShiftLeft<4>(high), high_bits)),
                                hn::Or(second.v[0], hn::And(hn::ShiftLeft<2>(high), high_bits)),
                                hn::Or(first.v[1], hn::And(high, high_bits)),
                                hn::Or(second.v[1], hn::And(hn::ShiftRight<2>(high), high_bits))};
      for (int place = 0; place < 4; ++place) {
        const int run = 8 * half + 2 * place + h;
        StoreTimes(hn::Sub(codes[place], hn::Set(d, 32)), hn::Set(df, scales[run]), values + 16 * run);
      }
    }
  }
}

// ---- any type ----

template <void (*kWiden)(const uint8_t*, float*)>
HWY_INLINE void WidenEach(const uint8_t* blocks, DTypeBlock block, int64_t num_blocks, float* values) {
  for (int64_t b = 0; b < num_blocks; ++b) kWiden(blocks + b * block.bytes, values + b * block.elements);
}

// values[0 ..]: all elements of `num_blocks` blocks. `block` is BlockOf(dtype); IsBlockType(dtype).
inline void WidenBlocks(DType dtype, const uint8_t* blocks, DTypeBlock block, int64_t num_blocks, float* values) {
  switch (dtype) {
    case DType::kQ4_0:
      return WidenEach<WidenQ4_0>(blocks, block, num_blocks, values);
    case DType::kQ4_1:
      return WidenEach<WidenQ4_1>(blocks, block, num_blocks, values);
    case DType::kQ5_0:
      return WidenEach<WidenQ5_0>(blocks, block, num_blocks, values);
    case DType::kQ5_1:
      return WidenEach<WidenQ5_1>(blocks, block, num_blocks, values);
    case DType::kQ8_0:
      return WidenEach<WidenQ8_0>(blocks, block, num_blocks, values);
    case DType::kIQ4_NL:
      return WidenEach<WidenIq4Nl>(blocks, block, num_blocks, values);
    case DType::kMXFP4:
      return WidenEach<WidenMxfp4>(blocks, block, num_blocks, values);
    case DType::kQ4_K:
      return WidenEach<WidenK4<false>>(blocks, block, num_blocks, values);
    case DType::kQ5_K:
      return WidenEach<WidenK4<true>>(blocks, block, num_blocks, values);
    default:
      TF_CHECK(dtype == DType::kQ6_K);
      return WidenEach<WidenQ6_K>(blocks, block, num_blocks, values);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace tokenferry
HWY_AFTER_NAMESPACE();
#endif  // TF_SIMD_TARGET
#endif  // include guard

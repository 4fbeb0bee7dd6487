// Blocks of quantised values as GGUF files hold them: what ggml and its Python package `gguf` make of each bit, for
// code of hosts and of devices. Every bit pattern is a value; products and sums are rounded one by one, as in the
// package: for any instruction set, and on a GPU, the same bits.
#pragma once

#include <cstdint>

#include "core/formats/dtype.h"
#include "core/formats/scalar.h"
#include "core/formats/weight_coding.h"

namespace tokenferry {

// Of a block, IsBlockType(dtype): 32 elements or 256, and bytes.
TF_HOST_DEVICE constexpr int32_t LogBlockElements(DType dtype) {
  return dtype >= DType::kQ4_K && dtype <= DType::kQ6_K ? 8 : 5;
}
TF_HOST_DEVICE constexpr int64_t BlockBytes(DType dtype) {
  switch (dtype) {
    case DType::kQ4_1:
      return 20;
    case DType::kQ5_0:
      return 22;
    case DType::kQ5_1:
      return 24;
    case DType::kQ8_0:
      return 34;
    case DType::kQ4_K:
      return 144;
    case DType::kQ5_K:
      return 176;
    case DType::kQ6_K:
      return 210;
    case DType::kMXFP4:
      return 17;
    default:
      return 18;  // Q4_0, IQ4_NL
  }
}
// Of element `i` of a row.
TF_HOST_DEVICE inline uint32_t PlaceInBlock(DType dtype, int64_t i) {
  return static_cast<uint32_t>(i) & ((1u << LogBlockElements(dtype)) - 1);
}

// The scale of MXFP4's integers, which are twice what E2M1 codes stand for: 2^(e - 128). The smallest two are
// subnormal.
TF_HOST_DEVICE inline float HalfOfE8M0(uint8_t e) {
  return internal::FloatFromBits(e < 2 ? 0x00200000u << e : static_cast<uint32_t>(e - 1) << 23);
}

namespace internal {

TF_HOST_DEVICE inline float HalfAt(const uint8_t* p) { return ToFloat(FP16{static_cast<uint16_t>(p[0] | p[1] << 8)}); }

// Code `i` of four bits: the low halves of kWidth bytes, then their high ones; and so on.
template <uint32_t kWidth>
TF_HOST_DEVICE inline int32_t Nibble(const uint8_t* bytes, uint32_t i) {
  return bytes[i / (2 * kWidth) * kWidth + i % kWidth] >> i / kWidth % 2 * 4 & 0xF;
}
// The fifth bit of code `i`, of 32 such bits.
TF_HOST_DEVICE inline int32_t FifthBit(const uint8_t* bits, uint32_t i) { return (bits[i / 8] >> i % 8 & 1) << 4; }

}  // namespace internal

// What 16 values from a multiple of 16 on have in common: each is its number times the scale, plus `add`, which is -0,
// and changes nothing, where the type has no minima.
struct BlockScale {
  float scale, add;

  TF_HOST_DEVICE float Times(int32_t number) const { return static_cast<float>(number) * scale + add; }
};

// Of element `i` of the block.
TF_HOST_DEVICE inline BlockScale BlockScaleOf(DType dtype, const uint8_t* block, uint32_t i) {
  switch (dtype) {
    case DType::kQ4_1:
    case DType::kQ5_1:
      return {internal::HalfAt(block), internal::HalfAt(block + 2)};
    case DType::kQ4_K:
    case DType::kQ5_K: {
      // Scale and minimum of eight groups, six bits each: the last four keep their high bits above the first four's.
      const uint8_t* packed = block + 4;
      const uint32_t group = i / 32, low = group % 4;
      const bool is_first = group < 4;
      const int32_t scale = is_first ? packed[low] & 0x3F : (packed[8 + low] & 0xF) | (packed[low] >> 2 & 0x30);
      const int32_t min = is_first ? packed[4 + low] & 0x3F : packed[8 + low] >> 4 | (packed[4 + low] >> 2 & 0x30);
      return {internal::HalfAt(block) * static_cast<float>(scale),
              -(internal::HalfAt(block + 2) * static_cast<float>(min))};
    }
    case DType::kQ6_K:
      return {internal::HalfAt(block + 208) * static_cast<float>(static_cast<int8_t>(block[192 + i / 16])), -0.0f};
    case DType::kMXFP4:
      return {HalfOfE8M0(block[0]), -0.0f};
    default:
      return {internal::HalfAt(block), -0.0f};
  }
}

// The integer of element `i`.
TF_HOST_DEVICE inline int32_t BlockNumber(DType dtype, const uint8_t* block, uint32_t i) {
  using internal::FifthBit, internal::Nibble;
  switch (dtype) {
    case DType::kQ4_0:
      return Nibble<16>(block + 2, i) - 8;
    case DType::kQ4_1:
      return Nibble<16>(block + 4, i);
    case DType::kQ5_0:
      return (Nibble<16>(block + 6, i) | FifthBit(block + 2, i)) - 16;
    case DType::kQ5_1:
      return Nibble<16>(block + 8, i) | FifthBit(block + 4, i);
    case DType::kQ8_0:
      return static_cast<int8_t>(block[2 + i]);
    case DType::kQ4_K:
      return Nibble<32>(block + 16, i);
    case DType::kQ5_K:  // the fifth bits of eight groups in 32 bytes
      return Nibble<32>(block + 48, i) | (block[16 + i % 32] >> i / 32 & 1) << 4;
    case DType::kQ6_K:  // in each half, the two high bits of four groups in 32 bytes
      return (Nibble<64>(block, i) | (block[128 + i / 128 * 32 + i % 32] >> i / 32 % 4 * 2 & 3) << 4) - 32;
    case DType::kIQ4_NL:
      return CodeNumber(WeightCoding::kIq4Nl, Nibble<16>(block + 2, i));
    default:  // MXFP4
      return CodeNumber(WeightCoding::kE2M1, Nibble<16>(block + 1, i));
  }
}

TF_HOST_DEVICE inline float BlockValue(DType dtype, const uint8_t* block, uint32_t i) {
  return BlockScaleOf(dtype, block, i).Times(BlockNumber(dtype, block, i));
}

inline constexpr int64_t kDecodedValues = 32;  // at a time; it divides all blocks

// values[0 .. 31]: elements begin .. begin + 31 of the blocks that start at `blocks`; `begin` is a multiple of 32.
// IsBlockType(dtype). Host code.
void DecodeBlocks(DType dtype, const uint8_t* blocks, int64_t begin, float* values);

// The first element whose block has a scale or minimum that is NaN or infinite, in whole blocks; -1: there is none.
int64_t FindNonFiniteScale(DType dtype, const uint8_t* blocks, int64_t num_bytes);

}  // namespace tokenferry

#include "core/formats/block_decode.h"

#include <cstring>

#include "core/check.h"
#include "core/formats/scalar.h"
#include "core/formats/weight_format.h"

namespace tokenferry {
namespace {

constexpr int kHalf = kDecodedValues / 2;

float HalfAt(const uint8_t* p) {
  FP16 value;
  std::memcpy(&value.bits, p, sizeof(value.bits));
  return ToFloat(value);
}

// Nibbles of blocks of 32: the low halves of 16 bytes, then the high ones.
void Nibbles(const uint8_t* bytes, int32_t (&codes)[kDecodedValues]) {
  for (int i = 0; i < kHalf; ++i) {
    codes[i] = bytes[i] & 0xF;
    codes[i + kHalf] = bytes[i] >> 4;
  }
}

// A fifth bit for each of them.
void AddFifthBits(const uint8_t* bits, int32_t (&codes)[kDecodedValues]) {
  uint32_t word;
  std::memcpy(&word, bits, sizeof(word));
  for (int i = 0; i < kDecodedValues; ++i) codes[i] |= static_cast<int32_t>(word >> i & 1) << 4;
}

void Scale(const int32_t (&codes)[kDecodedValues], int32_t zero, float scale, float* values) {
  for (int i = 0; i < kDecodedValues; ++i) values[i] = scale * static_cast<float>(codes[i] - zero);
}

void ScaleAndAdd(const int32_t (&codes)[kDecodedValues], float scale, float add, float* values) {
  for (int i = 0; i < kDecodedValues; ++i) values[i] = scale * static_cast<float>(codes[i]) + add;
}

void DecodeQ8(const uint8_t* block, float* values) {
  const float scale = HalfAt(block);
  for (int i = 0; i < kDecodedValues; ++i) {
    values[i] = scale * static_cast<float>(static_cast<int8_t>(block[2 + i]));
  }
}

void DecodeTable(const uint8_t* codes_at, WeightCoding coding, float scale, float* values) {
  int32_t codes[kDecodedValues];
  Nibbles(codes_at, codes);
  const int8_t* table = CodeTable(coding);
  for (int32_t& code : codes) code = table[code];
  Scale(codes, 0, scale, values);
}

// Scale and minimum of group `group` of eight, six bits each, in the 12 bytes of Q4_K and Q5_K.
void SixBits(const uint8_t* packed, int64_t group, int32_t& scale, int32_t& min) {
  if (group < 4) {
    scale = packed[group] & 0x3F;
    min = packed[group + 4] & 0x3F;
  } else {
    scale = (packed[group + 4] & 0xF) | (packed[group - 4] >> 2 & 0x30);
    min = packed[group + 4] >> 4 | (packed[group] >> 2 & 0x30);
  }
}

// Q4_K and Q5_K: scale, minimum, 12 bytes of both for eight groups of 32, in Q5_K 32 bytes of fifth bits, nibbles: two
// groups share 32 bytes.
template <bool kHasFifthBits>
void DecodeK4(const uint8_t* block, int64_t group, float* values) {
  int32_t scale, min;
  SixBits(block + 4, group, scale, min);
  const float d = HalfAt(block) * static_cast<float>(scale), m = HalfAt(block + 2) * static_cast<float>(min);
  const uint8_t* fifth = block + 16;
  const uint8_t* nibbles = fifth + (kHasFifthBits ? 32 : 0) + group / 2 * 32;
  const int shift = group % 2 == 0 ? 0 : 4;
  for (int i = 0; i < kDecodedValues; ++i) {
    int32_t code = nibbles[i] >> shift & 0xF;
    if (kHasFifthBits) code |= (fifth[i] >> group & 1) << 4;
    values[i] = d * static_cast<float>(code) - m;
  }
}

// 128 bytes of low nibbles, 64 of two high bits, 16 scales of 16 values, the scale of all. Groups of 32 in a half of
// 128: nibbles of 64 bytes, first all low ones; bits of 32 bytes, the group's place says which.
void DecodeQ6K(const uint8_t* block, int64_t group, float* values) {
  const int64_t half = group / 4, place = group % 4;
  const uint8_t* low = block + half * 64 + place % 2 * 32;
  const uint8_t* high = block + 128 + half * 32;
  const int shift = place < 2 ? 0 : 4;
  const auto* scales = reinterpret_cast<const int8_t*>(block + 192) + group * 2;
  const float d = HalfAt(block + 208);
  const float d16[2] = {d * static_cast<float>(scales[0]), d * static_cast<float>(scales[1])};
  for (int i = 0; i < kDecodedValues; ++i) {
    const int32_t code = (low[i] >> shift & 0xF) | (high[i] >> (2 * place) & 3) << 4;
    values[i] = d16[i / kHalf] * static_cast<float>(code - 32);
  }
}

// Where a block has numbers of 16 bits besides its codes: one or two, from this byte on.
struct Halves {
  int64_t at;
  int count;
};

Halves HalvesOf(DType dtype) {
  switch (dtype) {
    case DType::kQ4_1:
    case DType::kQ5_1:
    case DType::kQ4_K:
    case DType::kQ5_K:
      return {0, 2};
    case DType::kQ6_K:
      return {208, 1};
    case DType::kMXFP4:
      return {0, 0};
    default:
      return {0, 1};
  }
}

}  // namespace

void DecodeBlocks(DType dtype, const uint8_t* blocks, int64_t begin, float* values) {
  const DTypeBlock size = BlockOf(dtype);
  const uint8_t* block = blocks + begin / size.elements * size.bytes;
  const int64_t group = begin % size.elements / kDecodedValues;
  int32_t codes[kDecodedValues];
  switch (dtype) {
    case DType::kQ4_0:
      Nibbles(block + 2, codes);
      return Scale(codes, 8, HalfAt(block), values);
    case DType::kQ4_1:
      Nibbles(block + 4, codes);
      return ScaleAndAdd(codes, HalfAt(block), HalfAt(block + 2), values);
    case DType::kQ5_0:
      Nibbles(block + 6, codes);
      AddFifthBits(block + 2, codes);
      return Scale(codes, 16, HalfAt(block), values);
    case DType::kQ5_1:
      Nibbles(block + 8, codes);
      AddFifthBits(block + 4, codes);
      return ScaleAndAdd(codes, HalfAt(block), HalfAt(block + 2), values);
    case DType::kQ8_0:
      return DecodeQ8(block, values);
    case DType::kIQ4_NL:
      return DecodeTable(block + 2, WeightCoding::kIq4Nl, HalfAt(block), values);
    case DType::kMXFP4:
      return DecodeTable(block + 1, WeightCoding::kE2M1, HalfOfE8M0(block[0]), values);
    case DType::kQ4_K:
      return DecodeK4<false>(block, group, values);
    case DType::kQ5_K:
      return DecodeK4<true>(block, group, values);
    default:
      TF_CHECK(dtype == DType::kQ6_K);
      return DecodeQ6K(block, group, values);
  }
}

int64_t FindNonFiniteScale(DType dtype, const uint8_t* blocks, int64_t num_bytes) {
  const DTypeBlock size = BlockOf(dtype);
  const Halves halves = HalvesOf(dtype);
  for (int64_t b = 0; b < num_bytes / size.bytes; ++b) {
    const uint8_t* block = blocks + b * size.bytes;
    bool finite = dtype != DType::kMXFP4 || block[0] != 0xFF;
    for (int h = 0; h < halves.count; ++h) {
      uint16_t bits;
      std::memcpy(&bits, block + halves.at + 2 * h, sizeof(bits));
      finite = finite && (bits & 0x7C00) != 0x7C00;
    }
    if (!finite) return b * size.elements;
  }
  return -1;
}

}  // namespace tokenferry

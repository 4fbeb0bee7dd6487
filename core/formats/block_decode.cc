#include "core/formats/block_decode.h"

#include <cstring>

#include "core/check.h"

namespace tokenferry {
namespace {

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
  TF_CHECK(IsBlockType(dtype));
  const uint8_t* block = blocks + (begin >> LogBlockElements(dtype)) * BlockBytes(dtype);
  const uint32_t first = PlaceInBlock(dtype, begin);
  for (uint32_t run = first; run < first + kDecodedValues; run += 16) {
    const BlockScale scale = BlockScaleOf(dtype, block, run);
    for (uint32_t i = run; i < run + 16; ++i) *values++ = scale.Times(BlockNumber(dtype, block, i));
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

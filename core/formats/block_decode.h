// Blocks of quantised values as GGUF files hold them: what ggml and its Python package `gguf` make of each bit.
#pragma once

#include <cstdint>

#include "core/formats/dtype.h"
#include "core/formats/scalar.h"

namespace tokenferry {

inline constexpr int64_t kDecodedValues = 32;  // at a time; it divides all blocks

// values[0 .. 31]: elements begin .. begin + 31 of the blocks that start at `blocks`; `begin` is a multiple of 32.
// IsBlockType(dtype). Every bit pattern is a value; products and sums are rounded one by one, as in the package. Host
// code, for any instruction set the same bits.
void DecodeBlocks(DType dtype, const uint8_t* blocks, int64_t begin, float* values);

// The scale of MXFP4's integers, which are twice what E2M1 codes stand for: 2^(e - 128). The smallest two are
// subnormal.
inline float HalfOfE8M0(uint8_t e) {
  return internal::FloatFromBits(e < 2 ? 0x00200000u << e : static_cast<uint32_t>(e - 1) << 23);
}

// The first element whose block has a scale or minimum that is NaN or infinite, in whole blocks; -1: there is none.
int64_t FindNonFiniteScale(DType dtype, const uint8_t* blocks, int64_t num_bytes);

}  // namespace tokenferry

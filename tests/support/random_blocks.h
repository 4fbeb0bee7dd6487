// Blocks of GGUF files for tests of kernels.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <random>
#include <vector>

#include "core/formats/dtype.h"
#include "core/formats/scalar.h"

namespace tokenferry {

// Random bits, with scales, and what may be a minimum, of about 2^-6 and both signs, a few of them subnormal or zero.
inline std::vector<uint8_t> RandomBlocks(DType dtype, int64_t num_bytes, std::mt19937& random) {
  std::vector<uint8_t> bytes(static_cast<size_t>(num_bytes));
  for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(random());
  const int64_t size = BlockOf(dtype).bytes;
  for (int64_t b = 0; b < num_bytes; b += size) {
    if (dtype == DType::kMXFP4) bytes[b] = static_cast<uint8_t>(119 + random() % 8);
    if (dtype == DType::kMXFP4) continue;
    for (int64_t at : {b + (dtype == DType::kQ6_K ? 208 : 0), b + (dtype == DType::kQ6_K ? 208 : 2)}) {
      const float sign = random() % 2 == 0 ? 1.0f : -1.0f;
      const int exponent = random() % 8 != 0 ? -6 : random() % 2 == 0 ? -16 : -30;
      const FP16 scale = ToFP16(std::ldexp(sign * (1.0f + static_cast<float>(random() % 512) / 512), exponent));
      std::memcpy(&bytes[at], &scale, sizeof(scale));
    }
  }
  return bytes;
}

// All types of them.
inline std::vector<DType> BlockTypes() {
  std::vector<DType> types;
  for (int type = static_cast<int>(DType::kQ4_0); type <= static_cast<int>(DType::kMXFP4); ++type)
    types.push_back(static_cast<DType>(type));
  return types;
}

}  // namespace tokenferry

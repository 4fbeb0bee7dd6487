// What codes of a few bits stand for.
#pragma once

#include <cstdint>

#include "core/formats/scalar.h"

namespace tokenferry {

// What a stored element stands for, before it is multiplied by the scale of its block.
enum class WeightCoding : uint8_t {
  kNumber,     // a number of type `dtype`
  kZeroPoint,  // an unsigned integer minus the zero point of its block
  // The place of a number in a table (CodeTable).
  kInt4,   // -8 .. 7
  kE2M1,   // OCP MX: 0, 0.5, 1, 1.5, 2, 3, 4, 6, then the same with a minus
  kIq4Nl,  // llama.cpp's IQ4_NL
};

// The numbers of four-bit codes as integers in units of CodeUnit, [16]; null: `coding` has none. Host memory.
const int8_t* CodeTable(WeightCoding coding);
// Its entry `code`, in code of a device too, which does not see the host's tables; of a coding that has one.
TF_HOST_DEVICE inline int32_t CodeNumber(WeightCoding coding, int32_t code) {
  if (coding == WeightCoding::kInt4) return code - 8;
  if (coding == WeightCoding::kE2M1) {
    const auto magnitude = static_cast<int32_t>(0xC8643210u >> 4 * (code & 7) & 0xF);
    return code < 8 ? magnitude : -magnitude;
  }
  const uint64_t half = code < 8 ? 0xF6EADDCFBFAD9881u : 0x7159453526190D01u;  // a byte for each
  return static_cast<int8_t>(half >> 8 * (code & 7) & 0xFF);
}
TF_HOST_DEVICE constexpr float CodeUnit(WeightCoding coding) { return coding == WeightCoding::kE2M1 ? 0.5f : 1.0f; }

}  // namespace tokenferry

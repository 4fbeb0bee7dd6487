// Element types of tensors in files and in memory.
#pragma once

#include <cstdint>
#include <optional>

#include "absl/strings/string_view.h"

namespace tokenferry {

enum class DType : uint8_t {
  kF32,
  kF16,
  kBF16,
  kF8E4M3,
  kF8E5M2,
  kUE8M0,
  kI8,
  kU8,
  kI16,
  kI32,
  kI64,
  kBool,
  kF64,
  kC64,  // a complex number of two F32
  kU16,
  kU32,
  kU64,
  kF6E2M3,  // OCP MX elements, as those that follow
  kF6E3M2,
  kF4,  // E2M1
  // Of packed codes in memory; files have no such type.
  kU4,
  kU2,
};

int64_t DTypeBits(DType dtype);            // bits per element; elements of fewer than 8 bits are packed
int64_t DTypeBytes(DType dtype);           // bytes per element, of a type whose elements are whole bytes
absl::string_view DTypeName(DType dtype);  // the safetensors name: "F32", "BF16", "F8_E4M3", ...
std::optional<DType> DTypeFromName(absl::string_view safetensors_name);

// Precision of the matrix products (--compute). kF32: weights widened or dequantised to f32, f32 everywhere.
// kBF16: GEMM inputs (rows and weights) rounded to bf16, f32 accumulators and residual stream.
enum class Compute : uint8_t { kF32, kBF16 };

}  // namespace tokenferry

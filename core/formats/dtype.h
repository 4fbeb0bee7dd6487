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
  // Blocks of quantised values in GGUF files (core/formats/block_decode.h), by ggml's names.
  kQ4_0,
  kQ4_1,
  kQ5_0,
  kQ5_1,
  kQ8_0,
  kQ4_K,
  kQ5_K,
  kQ6_K,
  kIQ4_NL,
  kMXFP4,
};

int64_t DTypeBits(DType dtype);            // bits per element; elements of fewer than 8 bits are packed; not of blocks
int64_t DTypeBytes(DType dtype);           // bytes per element, of a type whose elements are whole bytes
absl::string_view DTypeName(DType dtype);  // the safetensors name: "F32", "BF16", "F8_E4M3", ...

// Elements are stored in blocks of whole bytes; a row of a matrix is whole blocks.
struct DTypeBlock {
  int64_t elements, bytes;
};
DTypeBlock BlockOf(DType dtype);  // of types whose elements stand alone: the fewest that are whole bytes
bool IsBlockType(DType dtype);    // of GGUF files
// Bytes of so many elements, which are whole blocks but for the last byte.
int64_t BytesOfElements(DType dtype, int64_t count);

std::optional<DType> DTypeFromName(absl::string_view safetensors_name);

// Precision of the matrix products (--compute). kF32: weights widened or dequantised to f32, f32 everywhere.
// kBF16: GEMM inputs (rows and weights) rounded to bf16, f32 accumulators and residual stream.
enum class Compute : uint8_t { kF32, kBF16 };

}  // namespace tokenferry

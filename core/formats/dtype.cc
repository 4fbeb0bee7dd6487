#include "core/formats/dtype.h"

#include <numeric>

#include "core/check.h"
#include "core/formats/block_decode.h"

namespace tokenferry {
namespace {

struct Row {
  DType dtype;
  int64_t bits;  // of a block
  absl::string_view name;
  int64_t elements = 1;  // of a block
};

constexpr Row BlockRow(DType dtype, absl::string_view name) {
  return {dtype, 8 * BlockBytes(dtype), name, int64_t{1} << LogBlockElements(dtype)};
}

constexpr Row kRows[] = {
    {DType::kF32, 32, "F32"},
    {DType::kF16, 16, "F16"},
    {DType::kBF16, 16, "BF16"},
    {DType::kF8E4M3, 8, "F8_E4M3"},
    {DType::kF8E5M2, 8, "F8_E5M2"},
    {DType::kUE8M0, 8, "F8_E8M0"},
    {DType::kI8, 8, "I8"},
    {DType::kU8, 8, "U8"},
    {DType::kI16, 16, "I16"},
    {DType::kI32, 32, "I32"},
    {DType::kI64, 64, "I64"},
    {DType::kBool, 8, "BOOL"},
    {DType::kF64, 64, "F64"},
    {DType::kC64, 64, "C64"},
    {DType::kU16, 16, "U16"},
    {DType::kU32, 32, "U32"},
    {DType::kU64, 64, "U64"},
    {DType::kF6E2M3, 6, "F6_E2M3"},
    {DType::kF6E3M2, 6, "F6_E3M2"},
    {DType::kF4, 4, "F4"},
    {DType::kU4, 4, "U4"},
    {DType::kU2, 2, "U2"},
    BlockRow(DType::kQ4_0, "Q4_0"),
    BlockRow(DType::kQ4_1, "Q4_1"),
    BlockRow(DType::kQ5_0, "Q5_0"),
    BlockRow(DType::kQ5_1, "Q5_1"),
    BlockRow(DType::kQ8_0, "Q8_0"),
    BlockRow(DType::kQ4_K, "Q4_K"),
    BlockRow(DType::kQ5_K, "Q5_K"),
    BlockRow(DType::kQ6_K, "Q6_K"),
    BlockRow(DType::kIQ4_NL, "IQ4_NL"),
    BlockRow(DType::kMXFP4, "MXFP4"),
};

bool IsOfSafetensors(DType dtype) { return dtype < DType::kU4; }

const Row& Find(DType dtype) {
  const Row& row = kRows[static_cast<int>(dtype)];
  TF_CHECK(row.dtype == dtype);
  return row;
}

}  // namespace

int64_t DTypeBits(DType dtype) {
  const Row& row = Find(dtype);
  TF_CHECK_EQ(row.elements, 1);
  return row.bits;
}

int64_t DTypeBytes(DType dtype) {
  const int64_t bits = DTypeBits(dtype);
  TF_CHECK_EQ(bits % 8, 0);
  return bits / 8;
}

bool IsBlockType(DType dtype) { return Find(dtype).elements > 1; }

DTypeBlock BlockOf(DType dtype) {
  const Row& row = Find(dtype);
  const int64_t num = std::lcm(row.bits, int64_t{8}) / row.bits;  // of types below 8 bits: more than one
  return {row.elements * num, row.bits * num / 8};
}

int64_t BytesOfElements(DType dtype, int64_t count) {
  const Row& row = Find(dtype);
  return count / row.elements * row.bits / 8;
}

absl::string_view DTypeName(DType dtype) { return Find(dtype).name; }

std::optional<DType> DTypeFromName(absl::string_view name) {
  for (const Row& row : kRows) {
    if (row.name == name && IsOfSafetensors(row.dtype)) return row.dtype;
  }
  return std::nullopt;
}

}  // namespace tokenferry

#include "core/formats/dtype.h"

#include "core/check.h"

namespace tokenferry {
namespace {

struct Row {
  DType dtype;
  int64_t num_bytes;
  absl::string_view name;
};

constexpr Row kRows[] = {
    {DType::kF32, 4, "F32"},        {DType::kF16, 2, "F16"},        {DType::kBF16, 2, "BF16"},
    {DType::kF8E4M3, 1, "F8_E4M3"}, {DType::kF8E5M2, 1, "F8_E5M2"}, {DType::kUE8M0, 1, "F8_E8M0"},
    {DType::kI8, 1, "I8"},          {DType::kU8, 1, "U8"},          {DType::kI16, 2, "I16"},
    {DType::kI32, 4, "I32"},        {DType::kI64, 8, "I64"},        {DType::kBool, 1, "BOOL"},
};

const Row& Find(DType dtype) {
  const Row& row = kRows[static_cast<int>(dtype)];
  TF_CHECK(row.dtype == dtype);
  return row;
}

}  // namespace

int64_t DTypeBytes(DType dtype) { return Find(dtype).num_bytes; }
absl::string_view DTypeName(DType dtype) { return Find(dtype).name; }

std::optional<DType> DTypeFromName(absl::string_view name) {
  for (const Row& row : kRows) {
    if (row.name == name) return row.dtype;
  }
  return std::nullopt;
}

}  // namespace tokenferry

#include "runtime/ops/finite_check.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "core/check.h"
#include "core/formats/f16.h"

namespace tokenferry {
namespace {

// The first code all of whose bits of kMask are those of kValue.
template <class Code, Code kMask, Code kValue = kMask>
int64_t Find(absl::Span<const uint8_t> data) {
  constexpr size_t kBlock = 4096;  // elements; one pass without branches, which compilers vectorise
  const size_t count = data.size() / sizeof(Code);
  for (size_t begin = 0; begin < count; begin += kBlock) {
    const size_t n = std::min(kBlock, count - begin);
    Code codes[kBlock];
    std::memcpy(codes, data.data() + begin * sizeof(Code), n * sizeof(Code));
    Code found = 0;
    for (size_t i = 0; i < n; ++i) found = static_cast<Code>(found | ((codes[i] & kMask) == kValue));
    if (found == 0) continue;
    for (size_t i = 0; i < n; ++i) {
      if ((codes[i] & kMask) == kValue) return static_cast<int64_t>(begin + i);
    }
  }
  return -1;
}

template <class Code>
Code CodeAt(absl::Span<const uint8_t> data, int64_t idx) {
  Code code;
  std::memcpy(&code, data.data() + static_cast<size_t>(idx) * sizeof(Code), sizeof(Code));
  return code;
}

}  // namespace

int64_t FindNonFinite(DType dtype, absl::Span<const uint8_t> data) {
  switch (dtype) {
    case DType::kF32:
      return Find<uint32_t, 0x7F800000u>(data);
    case DType::kBF16:
      return Find<uint16_t, 0x7F80u>(data);
    case DType::kF16:
      return Find<uint16_t, 0x7C00u>(data);
    case DType::kUE8M0:
      return Find<uint8_t, 0xFFu>(data);
    default:
      TF_CHECK(dtype == DType::kF8E4M3);
      return Find<uint8_t, 0x7Fu>(data);
  }
}

int64_t FindZero(DType dtype, absl::Span<const uint8_t> data) {
  if (dtype == DType::kF32) return Find<uint32_t, 0x7FFFFFFFu, 0>(data);
  TF_CHECK(dtype == DType::kBF16 || dtype == DType::kF16);
  return Find<uint16_t, 0x7FFFu, 0>(data);
}

std::string DescribeElement(DType dtype, absl::Span<const uint8_t> data, int64_t element_idx) {
  float value;
  std::string code;
  if (dtype == DType::kF32) {
    const auto bits = CodeAt<uint32_t>(data, element_idx);
    value = internal::FloatFromBits(bits);
    code = absl::StrCat(absl::Hex(bits, absl::kZeroPad8));
  } else if (dtype == DType::kBF16) {
    const auto bits = CodeAt<uint16_t>(data, element_idx);
    value = ToFloat(BF16{bits});
    code = absl::StrCat(absl::Hex(bits, absl::kZeroPad4));
  } else if (dtype == DType::kF16) {
    const auto bits = CodeAt<uint16_t>(data, element_idx);
    value = ToFloat(F16{bits});
    code = absl::StrCat(absl::Hex(bits, absl::kZeroPad4));
  } else {
    const auto bits = CodeAt<uint8_t>(data, element_idx);
    value = ToFloat(F8E4M3{bits});
    code = absl::StrCat(absl::Hex(bits, absl::kZeroPad2));
  }
  const std::string text = std::isnan(value)   ? "NaN"
                           : std::isinf(value) ? (value > 0 ? "inf" : "-inf")
                                               : absl::StrCat(value);
  return absl::StrCat(text, " (0x", code, ")");
}

}  // namespace tokenferry

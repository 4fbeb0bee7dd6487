// Finds elements that are no numbers in raw tensor data.
#pragma once

#include <cstdint>
#include <string>

#include "absl/types/span.h"
#include "core/formats/dtype.h"

namespace tokenferry {

// Index of the first NaN or infinity among the elements of `data`; -1: none. dtype kF32, kBF16, kF16, kF8E4M3 (which
// has NaN 0x7F and 0xFF only) or kUE8M0 (0xFF). data.size() is a multiple of the element's size.
int64_t FindNonFinite(DType dtype, absl::Span<const uint8_t> data);

// The same, of the first +0 or -0. dtype kF32, kBF16 or kF16.
int64_t FindZero(DType dtype, absl::Span<const uint8_t> data);

// "NaN (0x7F)", "-inf (0xFF80)"; the element at `element_idx`.
std::string DescribeElement(DType dtype, absl::Span<const uint8_t> data, int64_t element_idx);

}  // namespace tokenferry

// What rows and outputs of an exchange look like.
#pragma once

#include <cstdint>

#include "core/formats/dtype.h"

namespace tokenferry {

// The same on every rank. ExchangeOptions says what each is.
struct RowFormats {
  int64_t hidden = 0;
  DType wire_dtype = DType::kF32, expert_dtype = DType::kF32, output_dtype = DType::kF32;
};

}  // namespace tokenferry

// Copying chosen rows of bytes, of any element type, side by side.
#pragma once

#include "core/device/device.h"

namespace tokenferry {

// Row i of out is row idx[i] of src; both have rows of `row_bytes` without gaps. All in device or transport memory.
struct CopyRowsArgs {
  const void* src = nullptr;
  const int32_t* idx = nullptr;  // [num_rows]
  int64_t num_rows = 0;
  int64_t row_bytes = 0;
  void* out = nullptr;
};
extern const Op<CopyRowsArgs> kCopyRows;

// Row i of out is what lies at from[i]: rows in the memory of several ranks.
struct PullRowsFromArgs {
  const char* const* from = nullptr;  // [num_rows]
  int64_t num_rows = 0;
  int64_t row_bytes = 0;
  char* out = nullptr;  // [num_rows, row_bytes]
};
extern const Op<PullRowsFromArgs> kPullRowsFrom;

}  // namespace tokenferry

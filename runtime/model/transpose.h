// Columns of what files hold become rows of memory.
#pragma once

#include <cstdint>

namespace tokenferry {

// Row c of dst [num_cols, num_rows] is column c * step of src [num_rows, ..]. Elements have 1, 2 or 4 bytes, strides
// are in bytes; nothing is aligned.
struct TransposeColumnsArgs {
  int64_t element_bytes = 1;
  const uint8_t* src = nullptr;
  int64_t src_stride = 0;
  int64_t num_rows = 0, num_cols = 0;
  int64_t step = 1;
  uint8_t* dst = nullptr;
  int64_t dst_stride = 0;
};
void TransposeColumns(const TransposeColumnsArgs& args);

}  // namespace tokenferry

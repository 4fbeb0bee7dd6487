// Operations on more rows than there are: their launch covers as many as there may be, and the device knows how many
// there are.
#pragma once

#include <cstdint>

#include "core/formats/scalar.h"

namespace tokenferry {

// `live_rows`, an argument of such an operation: one number in device memory. Rows from it on hold nothing; null: all
// rows hold something.
TF_HOST_DEVICE inline bool IsLive(int64_t row, const int64_t* live_rows) {
  return live_rows == nullptr || row < *live_rows;
}
// Of `num_rows` that the operation is for.
TF_HOST_DEVICE inline int64_t NumLive(int64_t num_rows, const int64_t* live_rows) {
  return IsLive(num_rows, live_rows) ? num_rows : *live_rows;
}

}  // namespace tokenferry

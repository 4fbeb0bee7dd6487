// Static shapes: every slot computes the same number of rows, whatever arrived. For launches that are recorded once.
#pragma once

#include "core/device/device.h"
#include "core/moe/moe_types.h"

namespace tokenferry {

// Row s * capacity + i of `out` is the row of slot s's selection i, and zero where the slot has no such selection;
// out_row_idx[j] = j, out_slot_offsets[s] = s * capacity. A slot has at most `capacity` selections (else the op is
// broken: TF_CHECK).
struct PadRowsArgs {
  ExpertRows in;
  int64_t num_slots = 0;
  int64_t capacity = 0;
  void* out = nullptr;                  // [num_slots * capacity, hidden] of in.dtype
  int32_t* out_row_idx = nullptr;       // [num_slots * capacity]
  int64_t* out_slot_offsets = nullptr;  // [num_slots + 1]
};
void PadRows(Stream& stream, const PadRowsArgs& args);

// The inverse for the experts' outputs: out[slot_offsets[s] + i] = padded[s * capacity + i]. Of one dtype.
struct UnpadRowsArgs {
  ConstFloatMatrix padded;                // [num_slots * capacity, H], contiguous
  const int64_t* slot_offsets = nullptr;  // [num_slots + 1]
  int64_t num_slots = 0;
  int64_t capacity = 0;
  FloatMatrix out;  // [n, H], contiguous
};
void UnpadRows(Stream& stream, const UnpadRowsArgs& args);

}  // namespace tokenferry

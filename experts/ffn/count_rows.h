// How many rows each of a rank's slots has computed, counted where the plan lies.
#pragma once

#include "core/device/device.h"

namespace tokenferry {

// counts[s] += slot_offsets[s + 1] - slot_offsets[s]. Device memory.
struct CountRowsArgs {
  const int64_t* slot_offsets = nullptr;  // [num_slots + 1], ExpertRows'
  int64_t num_slots = 0;
  int64_t* counts = nullptr;  // [num_slots]
};
void CountRows(Stream& stream, const CountRowsArgs& args);

}  // namespace tokenferry

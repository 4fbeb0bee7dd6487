// The value types that travel between router, exchange and experts. Views own nothing; see each field for who does.
#pragma once

#include <cstdint>

#include "core/formats/tensor.h"

namespace tokenferry {

// Output of a router. Device memory.
struct Routing {
  MatrixView<int32_t> expert_idx;  // [T, K] logical experts; -1 = none. Within a row by falling weight, ties by index
  MatrixView<float> weight;        // [T, K] applied in the combine; 0 where expert_idx is -1
  // [T, K] index into Placement::locations(expert), -1 = Placement::Choose's; data null: all -1.
  MatrixView<int32_t> location = {};
};

// What an expert-parallel rank works on: the selections that arrived, grouped by local slot, within a slot by
// (source rank, token index). Selection s reads row row_idx[s] of `rows`. Device memory, owned by the exchange, valid
// until the next Dispatch with the same exchange.
struct ExpertRows {
  const void* rows = nullptr;  // [num_rows, hidden] of `dtype`
  DType dtype = DType::kF32;   // kF32 or kBF16
  int64_t hidden = 0;
  int64_t row_stride = 0;                 // elements
  const int32_t* row_idx = nullptr;       // [max_selections]
  const int64_t* slot_offsets = nullptr;  // [num_local_slots + 1]; the last is the number of selections
  // What launches and buffers must cover; the number of selections itself where the host made the plan. What is
  // computed beyond the last selection is not used.
  int64_t max_selections = 0;
  // About how many there will be, 0: max_selections. What is fast may depend on it, no bit does.
  int64_t expected_selections = 0;
};

}  // namespace tokenferry

// Device operations of the exchange's benchmarks: what stands in for the experts, and the moves of the baselines.
#pragma once

#include "core/device/device.h"
#include "core/moe/moe_types.h"

namespace tokenferry {

// The factor by which the benchmark's expert multiplies a row: different for every expert and exact in f32, so that a
// row which met another expert shows.
inline float ExpertFactor(int32_t expert) { return 1.0f + static_cast<float>(expert) / 4096.0f; }

// Reads every selected row once, in grouped order, as a GEMM does that packs its input: checksum[s] = the exclusive or
// of the row's bytes, as 8-byte words starting at the row's begin, the rest zero-extended.
struct ReadRowsArgs {
  const void* rows = nullptr;
  int64_t row_stride = 0;  // bytes
  int64_t row_bytes = 0;
  const int32_t* row_idx = nullptr;   // [num_selections]; null: row s
  int64_t num_selections = 0;         // most of them, where num_read is given
  const int64_t* num_read = nullptr;  // one, device memory: the first so many are read; null: all
  uint64_t* checksum = nullptr;       // [num_selections] 0 of those that are not read
};
extern const Op<ReadRowsArgs> kReadRows;

// out[s] = factor of the slot * row of selection s, in f32. Rows of kF32 or kBF16.
struct TransformRowsArgs {
  const void* rows = nullptr;
  DType dtype = DType::kF32;
  int64_t row_stride = 0;                 // elements
  const int32_t* row_idx = nullptr;       // [num_selections]; null: row s
  const int64_t* slot_offsets = nullptr;  // [num_slots + 1]
  const float* slot_factor = nullptr;     // [num_slots]
  int64_t num_slots = 0;
  int64_t max_selections = 0;  // at least slot_offsets[num_slots]
  int64_t hidden = 0;
  void* out = nullptr;            // [num_selections, hidden]; may be `rows` when row_idx is null
  int64_t out_stride = 0;         // elements
  DType out_dtype = DType::kF32;  // kF32, or kBF16 (rounded to nearest even)
};
extern const Op<TransformRowsArgs> kTransformRows;

// dst[dst_idx[i]] = src[src_idx[i]], rows of bytes; a null index is i.
struct MoveRowsArgs {
  const void* src = nullptr;
  const int32_t* src_idx = nullptr;
  void* dst = nullptr;
  const int32_t* dst_idx = nullptr;
  int64_t num_rows = 0;
  int64_t row_bytes = 0;
};
extern const Op<MoveRowsArgs> kMoveRows;

}  // namespace tokenferry

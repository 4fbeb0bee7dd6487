// Rows as they travel and as experts read them, and the arrays that lead experts to them: what paths share on the way
// out.
#pragma once

#include <vector>

#include "comm/exchange/path/options.h"
#include "comm/plan/exchange_plan.h"
#include "core/device/growing_buffer.h"
#include "core/moe/moe_types.h"

namespace tokenferry {

class ExchangeRows {
 public:
  ExchangeRows(Device& device, const ExchangeOptions& options)
      : device_(device),
        hidden_(options.hidden),
        wire_dtype_(options.wire_dtype),
        resident_dtype_(options.resident_dtype()) {}

  // The memory of Home and Widen for so many rows that are quantised on their way, so that these allocate nothing.
  absl::Status Reserve(int64_t num_home_rows, int64_t num_wide_rows);

  // Exchange::HomeRows in memory of this rank's own.
  absl::StatusOr<FloatMatrix> Home(int64_t num_tokens);

  // out[i] = rows[idx[i]] as rows travel, [num_rows, RowBytes(wire_dtype)].
  void Pack(Stream& stream, ConstFloatMatrix rows, const int32_t* idx, int64_t num_rows, void* out) const;
  // Rows that have travelled, as experts read them: themselves, or widened in memory of this object.
  // live_rows: WidenRowsArgs'.
  absl::StatusOr<const void*> Widen(Stream& stream, const void* rows, int64_t num_rows,
                                    const int64_t* live_rows = nullptr);
  // For rows of the resident dtype; selection s reads row row_idx[s]. Uploads row_idx and the plan's slot offsets.
  absl::StatusOr<ExpertRows> ForExperts(Stream& stream, const RecvPlan& plan, const void* rows,
                                        const std::vector<int32_t>& row_idx);

 private:
  Device& device_;
  const int64_t hidden_;
  const DType wire_dtype_, resident_dtype_;
  GrowingBuffer home_rows_{MemoryKind::kDevice, "exchange: rows at home"};
  GrowingBuffer wide_rows_{MemoryKind::kDevice, "exchange: widened rows"};
  GrowingBuffer row_idx_{MemoryKind::kDevice, "exchange: row of each selection"};
  GrowingBuffer slot_offsets_{MemoryKind::kDevice, "exchange: slot offsets"};
};

}  // namespace tokenferry

#include "comm/exchange/path/exchange_rows.h"

#include "comm/ops/row_codec_ops.h"
#include "core/kernels/gather_rows.h"

namespace tokenferry {

absl::StatusOr<FloatMatrix> ExchangeRows::Home(int64_t num_tokens) {
  TF_RETURN_IF_ERROR(home_rows_.Reserve(device_, num_tokens * hidden_ * DTypeBytes(resident_dtype_)));
  return FloatMatrix(home_rows_.data(), resident_dtype_, num_tokens, hidden_);
}

void ExchangeRows::Pack(Stream& stream, ConstFloatMatrix rows, const int32_t* idx, int64_t num_rows, void* out) const {
  if (IsQuantised(wire_dtype_)) {
    stream.Launch(kQuantiseRows, {rows, idx, num_rows, out, wire_dtype_});
  } else {
    stream.Launch(kGatherRows, {rows, idx, num_rows, out, wire_dtype_});
  }
}

absl::Status ExchangeRows::Reserve(int64_t num_home_rows, int64_t num_wide_rows) {
  if (!IsQuantised(wire_dtype_)) return absl::OkStatus();
  TF_RETURN_IF_ERROR(Home(num_home_rows).status());
  return wide_rows_.Reserve(device_, num_wide_rows * RowBytes(resident_dtype_, hidden_));
}

absl::StatusOr<const void*> ExchangeRows::Widen(Stream& stream, const void* rows, int64_t num_rows,
                                                const int64_t* live_rows) {
  if (!IsQuantised(wire_dtype_)) return rows;
  TF_RETURN_IF_ERROR(wide_rows_.Reserve(device_, num_rows * RowBytes(resident_dtype_, hidden_)));
  stream.Launch(kWidenRows, {rows, wire_dtype_, num_rows, hidden_, wide_rows_.data(), resident_dtype_, live_rows});
  return wide_rows_.data();
}

absl::StatusOr<ExpertRows> ExchangeRows::ForExperts(Stream& stream, const RecvPlan& plan, const void* rows,
                                                    const std::vector<int32_t>& row_idx) {
  TF_RETURN_IF_ERROR(row_idx_.Upload(stream, row_idx));
  TF_RETURN_IF_ERROR(slot_offsets_.Upload(stream, plan.slot_offsets));
  return ExpertRows{.rows = rows,
                    .dtype = resident_dtype_,
                    .hidden = hidden_,
                    .row_stride = hidden_,
                    .row_idx = row_idx_.as<int32_t>(),
                    .slot_offsets = slot_offsets_.as<int64_t>(),
                    .max_selections = plan.selection_offsets.back()};
}

}  // namespace tokenferry

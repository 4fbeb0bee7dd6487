#include "runtime/engine/expert_network.h"

#include "experts/ffn/expert_ffn.h"
#include "experts/ffn/padded_rows.h"

namespace tokenferry {

absl::Status GatedExperts::Reserve(const ExpertRows& rows, DType) {
  return scratch_.Reserve(device_, ScratchBytes(rows.max_selections, intermediate_));
}

absl::Status GatedExperts::Run(Stream& stream, const ExpertArrays& experts, const ExpertRows& rows, FloatMatrix out) {
  TF_RETURN_IF_ERROR(Reserve(rows, out.dtype));
  ExpertFfn(stream, {.rows = rows,
                     .num_slots = num_slots_,
                     .intermediate = intermediate_,
                     .gate = experts.gate,
                     .up = experts.up,
                     .down = experts.down,
                     .gate_bias = experts.gate_bias,
                     .up_bias = experts.up_bias,
                     .down_bias = experts.down_bias,
                     .activation = activation_,
                     .scratch = scratch_.as<float>(),
                     .out = out,
                     .compute = compute_});
  return absl::OkStatus();
}

absl::Status PaddedExperts::ReserveFor(int64_t capacity, const ExpertRows& rows, DType out_dtype) {
  const int64_t n = num_slots_ * capacity;
  TF_RETURN_IF_ERROR(rows_.Reserve(device_, n * rows.hidden * DTypeBytes(rows.dtype)));
  TF_RETURN_IF_ERROR(row_idx_.Reserve(device_, n * static_cast<int64_t>(sizeof(int32_t))));
  TF_RETURN_IF_ERROR(slot_offsets_.Reserve(device_, (num_slots_ + 1) * static_cast<int64_t>(sizeof(int64_t))));
  return out_.Reserve(device_, n * rows.hidden * DTypeBytes(out_dtype));
}

absl::Status PaddedExperts::Reserve(const ExpertRows& rows, DType out_dtype) {
  const int64_t capacity = overflow_.most_capacity();
  TF_RETURN_IF_ERROR(ReserveFor(capacity, rows, out_dtype));
  return network_->Reserve(PaddedRows(capacity, rows), out_dtype);
}

ExpertRows PaddedExperts::PaddedRows(int64_t capacity, const ExpertRows& rows) const {
  return {.rows = rows_.data(),
          .dtype = rows.dtype,
          .hidden = rows.hidden,
          .row_stride = rows.hidden,
          .row_idx = row_idx_.as<int32_t>(),
          .slot_offsets = slot_offsets_.as<int64_t>(),
          .max_selections = num_slots_ * capacity};
}

absl::Status PaddedExperts::Run(Stream& stream, const ExpertArrays& experts, const ExpertRows& rows, FloatMatrix out) {
  const int64_t C = overflow_.capacity(), S = num_slots_;
  TF_RETURN_IF_ERROR(ReserveFor(C, rows, out.dtype));
  PadRows(stream, {rows, S, C, rows_.data(), row_idx_.as<int32_t>(), slot_offsets_.as<int64_t>()});
  const ExpertRows padded = PaddedRows(C, rows);
  const FloatMatrix padded_out(out_.data(), out.dtype, padded.max_selections, rows.hidden);
  TF_RETURN_IF_ERROR(network_->Run(stream, experts, padded, padded_out));
  UnpadRows(stream, {padded_out, rows.slot_offsets, S, C, out});
  return absl::OkStatus();
}

}  // namespace tokenferry

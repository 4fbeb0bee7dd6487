#include "runtime/engine/expert_network.h"

#include "experts/ffn/expert_ffn.h"
#include "experts/ffn/padded_rows.h"

namespace tokenferry {

absl::Status GatedExperts::Run(Stream& stream, const ExpertArrays& experts, const ExpertRows& rows, FloatMatrix out) {
  constexpr auto kElementBytes = static_cast<int64_t>(sizeof(float));
  TF_RETURN_IF_ERROR(scratch_.Reserve(device_, rows.max_selections * 2 * intermediate_ * kElementBytes));
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

absl::Status PaddedExperts::Run(Stream& stream, const ExpertArrays& experts, const ExpertRows& rows, FloatMatrix out) {
  const int64_t C = overflow_.capacity(), S = num_slots_, n = S * C;
  TF_RETURN_IF_ERROR(rows_.Reserve(device_, n * rows.hidden * DTypeBytes(rows.dtype)));
  TF_RETURN_IF_ERROR(row_idx_.Reserve(device_, n * static_cast<int64_t>(sizeof(int32_t))));
  TF_RETURN_IF_ERROR(slot_offsets_.Reserve(device_, (S + 1) * static_cast<int64_t>(sizeof(int64_t))));
  TF_RETURN_IF_ERROR(out_.Reserve(device_, n * rows.hidden * out.element_bytes()));
  PadRows(stream, {rows, S, C, rows_.data(), row_idx_.as<int32_t>(), slot_offsets_.as<int64_t>()});
  const ExpertRows padded{.rows = rows_.data(),
                          .dtype = rows.dtype,
                          .hidden = rows.hidden,
                          .row_stride = rows.hidden,
                          .row_idx = row_idx_.as<int32_t>(),
                          .slot_offsets = slot_offsets_.as<int64_t>(),
                          .max_selections = n};
  const FloatMatrix padded_out(out_.data(), out.dtype, n, rows.hidden);
  TF_RETURN_IF_ERROR(network_->Run(stream, experts, padded, padded_out));
  UnpadRows(stream, {padded_out, rows.slot_offsets, S, C, out});
  return absl::OkStatus();
}

}  // namespace tokenferry

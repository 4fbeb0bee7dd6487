#include "comm/output_return.h"

#include "comm/exchange_ops.h"
#include "comm/exchange_planner.h"
#include "comm/row_codec_ops.h"
#include "core/kernels/gather_rows.h"

namespace tokenferry {

OutputReturn::OutputReturn(Transport& transport, Device& device, const ExchangeOptions& options)
    : transport_(transport),
      device_(device),
      hidden_(options.hidden),
      output_dtype_(options.output_dtype),
      wire_out_bytes_(RowBytes(options.output_dtype, options.hidden)),
      out_bytes_(RowBytes(DType::kF32, options.hidden)),
      send_out_(transport.memory_kind(), "exchange: expert outputs to send back"),
      recv_out_(transport.memory_kind(), "exchange: expert outputs received back"),
      send_offsets_(transport.num_ranks() + 1),
      recv_offsets_(transport.num_ranks() + 1) {}

absl::StatusOr<MatrixView<float>> OutputReturn::ExpertOut(const ExchangePlan& plan) {
  TF_RETURN_IF_ERROR(expert_out_.Reserve(device_, plan.num_recv_selections() * out_bytes_));
  return MakeMatrix<float>(expert_out_.data(), plan.num_recv_selections(), hidden_);
}

absl::Status OutputReturn::Combine(Stream& stream, const CallSite& site, const ExchangePlan& plan,
                                   MatrixView<const float> weight, MatrixView<float> out, ExchangeStats& stats) {
  TF_RETURN_IF_ERROR(send_out_.Reserve(device_, plan.num_recv_selections() * wire_out_bytes_));
  TF_RETURN_IF_ERROR(recv_out_.Reserve(device_, plan.num_send_selections() * wire_out_bytes_));
  TF_RETURN_IF_ERROR(return_selection_.Upload(stream, plan.recv.return_selection));
  TF_RETURN_IF_ERROR(combine_offsets_.Upload(stream, plan.send.combine_offsets));
  TF_RETURN_IF_ERROR(combine_selection_.Upload(stream, plan.send.combine_selection));
  TF_RETURN_IF_ERROR(combine_k_.Upload(stream, plan.send.combine_k));
  const auto expert_out = MakeMatrix<const float>(expert_out_.data(), plan.num_recv_selections(), hidden_);
  stream.Launch(kGatherRows, {expert_out, return_selection_.as<int32_t>(), plan.num_recv_selections(), send_out_.data(),
                              output_dtype_});
  ScaleOffsets(plan.recv.selection_offsets, wire_out_bytes_, send_offsets_);
  ScaleOffsets(plan.send.selection_offsets, wire_out_bytes_, recv_offsets_);
  TF_RETURN_IF_ERROR(
      transport_.AllToAllV(stream, At(site, "combine rows"),
                           {send_out_.data(), send_offsets_, recv_out_.data(), recv_offsets_, wire_out_bytes_}));
  auto returned = MakeMatrix<const float>(recv_out_.data(), plan.num_send_selections(), hidden_);
  if (output_dtype_ != DType::kF32) {
    TF_RETURN_IF_ERROR(wide_out_.Reserve(device_, plan.num_send_selections() * out_bytes_));
    stream.Launch(kWidenRows, {recv_out_.data(), output_dtype_, plan.num_send_selections(), hidden_, wide_out_.data(),
                               DType::kF32});
    returned.data = wide_out_.as<float>();
  }
  stream.Launch(kCombineRows, {returned, combine_offsets_.as<int64_t>(), combine_selection_.as<int32_t>(),
                               combine_k_.as<int32_t>(), weight, out});
  for (int r = 0; r < transport_.num_ranks(); ++r) {
    stats.combine_bytes_per_rank[r] += send_offsets_[r + 1] - send_offsets_[r];
  }
  return absl::OkStatus();
}

}  // namespace tokenferry

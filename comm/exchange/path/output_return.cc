#include "comm/exchange/path/output_return.h"

#include "comm/ops/copy_rows.h"
#include "comm/ops/exchange_ops.h"
#include "comm/plan/exchange_planner.h"

namespace tokenferry {

OutputReturn::OutputReturn(const PathContext& context)
    : transport_(context.transport),
      device_(context.device),
      stats_(context.stats),
      hidden_(context.options.hidden),
      output_dtype_(context.options.output_dtype),
      out_bytes_(hidden_ * DTypeBytes(output_dtype_)),
      send_out_(transport_.memory_kind(), "exchange: expert outputs to send back"),
      recv_out_(transport_.memory_kind(), "exchange: expert outputs received back"),
      send_offsets_(transport_.num_ranks() + 1),
      recv_offsets_(transport_.num_ranks() + 1) {}

absl::StatusOr<FloatMatrix> OutputReturn::ExpertOut(const ExchangePlan& plan) {
  TF_RETURN_IF_ERROR(expert_out_.Reserve(device_, plan.num_recv_selections() * out_bytes_));
  return FloatMatrix(expert_out_.data(), output_dtype_, plan.num_recv_selections(), hidden_);
}

absl::Status OutputReturn::Begin(Stream& stream, const CallSite& site, const ExchangePlan& plan) {
  TF_RETURN_IF_ERROR(send_out_.Reserve(device_, plan.num_recv_selections() * out_bytes_));
  TF_RETURN_IF_ERROR(recv_out_.Reserve(device_, plan.num_send_selections() * out_bytes_));
  TF_RETURN_IF_ERROR(return_selection_.Upload(stream, plan.recv.return_selection));
  stream.Launch(kCopyRows, {expert_out_.data(), return_selection_.as<int32_t>(), plan.num_recv_selections(), out_bytes_,
                            send_out_.data()});
  ScaleOffsets(plan.recv.selection_offsets, out_bytes_, send_offsets_);
  ScaleOffsets(plan.send.selection_offsets, out_bytes_, recv_offsets_);
  for (int r = 0; r < transport_.num_ranks(); ++r) {
    stats_.combine_bytes_per_rank[r] += send_offsets_[r + 1] - send_offsets_[r];
  }
  TF_ASSIGN_OR_RETURN(transfer_,
                      transport_.Begin(stream, At(site, "combine rows"),
                                       {send_out_.data(), send_offsets_, recv_out_.data(), recv_offsets_, out_bytes_}));
  return absl::OkStatus();
}

absl::Status OutputReturn::Finish(Stream& stream, const ExchangePlan& plan, MatrixView<const float> weight,
                                  MatrixView<float> out) {
  TF_RETURN_IF_ERROR(transport_.Finish(stream, transfer_));
  TF_RETURN_IF_ERROR(combine_offsets_.Upload(stream, plan.send.combine_offsets));
  TF_RETURN_IF_ERROR(combine_selection_.Upload(stream, plan.send.combine_selection));
  TF_RETURN_IF_ERROR(combine_k_.Upload(stream, plan.send.combine_k));
  const ConstFloatMatrix returned(recv_out_.data(), output_dtype_, plan.num_send_selections(), hidden_);
  stream.Launch(kCombineRows, {returned, combine_offsets_.as<int64_t>(), combine_selection_.as<int32_t>(),
                               combine_k_.as<int32_t>(), weight, out});
  return absl::OkStatus();
}

}  // namespace tokenferry

#include "comm/exchange/alltoallv/alltoallv_exchange.h"

#include "comm/exchange/output_return.h"
#include "comm/ops/row_codec_ops.h"
#include "comm/plan/exchange_planner.h"
#include "core/device/growing_buffer.h"
#include "core/kernels/gather_rows.h"

namespace tokenferry {
namespace {

class AllToAllVExchange : public Exchange {
 public:
  AllToAllVExchange(Transport& transport, Device& device, const ExchangeOptions& options)
      : Exchange(ExchangePath::kAllToAllV, transport, device, options),
        transport_(transport),
        device_(device),
        options_(options),
        row_bytes_(RowBytes(options.wire_dtype, options.hidden)),
        planner_(transport, options),
        output_return_(transport, device, options),
        send_rows_(transport.memory_kind(), "exchange: rows to send"),
        recv_rows_(transport.memory_kind(), "exchange: rows received"),
        send_offsets_(transport.num_ranks() + 1),
        recv_offsets_(transport.num_ranks() + 1) {}

 private:
  absl::Status DoPlan(Stream& stream, const CallSite& site, const Routing& routing, const Placement& placement,
                      ExchangePlan& plan) override {
    return planner_.Plan(transport_, stream, site, routing, placement, plan);
  }

  absl::Status DoBeginDispatch(Stream& stream, const CallSite& site, const ExchangePlan& plan,
                               ConstFloatMatrix home_rows) override {
    TF_RETURN_IF_ERROR(send_rows_.Reserve(device_, plan.num_send_rows() * row_bytes_));
    TF_RETURN_IF_ERROR(recv_rows_.Reserve(device_, plan.num_recv_rows() * row_bytes_));
    TF_RETURN_IF_ERROR(row_token_.Upload(stream, plan.send.row_token));
    PackRows(stream, home_rows, row_token_.as<int32_t>(), plan.num_send_rows(), send_rows_.data());
    ScaleOffsets(plan.send.row_offsets, row_bytes_, send_offsets_);
    ScaleOffsets(plan.recv.row_offsets, row_bytes_, recv_offsets_);
    for (int r = 0; r < transport_.num_ranks(); ++r) {
      stats_.dispatch_rows_per_rank[r] += plan.send.row_offsets[r + 1] - plan.send.row_offsets[r];
      stats_.dispatch_bytes_per_rank[r] += send_offsets_[r + 1] - send_offsets_[r];
    }
    TF_ASSIGN_OR_RETURN(
        transfer_, transport_.Begin(stream, At(site, "dispatch rows"),
                                    {send_rows_.data(), send_offsets_, recv_rows_.data(), recv_offsets_, row_bytes_}));
    return absl::OkStatus();
  }

  absl::StatusOr<ExpertRows> DoDispatch(Stream& stream, const CallSite&, const ExchangePlan& plan,
                                        ConstFloatMatrix) override {
    TF_RETURN_IF_ERROR(transport_.Finish(stream, transfer_));
    TF_ASSIGN_OR_RETURN(const void* rows, WidenRows(stream, recv_rows_.data(), plan.num_recv_rows()));
    return MakeExpertRows(stream, plan.recv, rows, plan.recv.row_idx);
  }

  absl::StatusOr<FloatMatrix> DoExpertOut(const ExchangePlan& plan) override { return output_return_.ExpertOut(plan); }

  absl::Status DoBeginCombine(Stream& stream, const CallSite& site, const ExchangePlan& plan) override {
    return output_return_.Begin(stream, site, plan, stats_);
  }

  absl::Status DoCombine(Stream& stream, const CallSite&, const ExchangePlan& plan, MatrixView<const float> weight,
                         MatrixView<float> out) override {
    return output_return_.Finish(stream, plan, weight, out);
  }

  Transport& transport_;
  Device& device_;
  const ExchangeOptions options_;
  const int64_t row_bytes_;  // of a dispatched row
  ExchangePlanner planner_;
  OutputReturn output_return_;
  GrowingBuffer send_rows_, recv_rows_;
  GrowingBuffer row_token_{MemoryKind::kDevice, "exchange: token of each row"};
  std::vector<int64_t> send_offsets_, recv_offsets_;  // [R + 1] bytes
  TransferHandle transfer_;                           // between BeginDispatch and FinishDispatch
};

}  // namespace

std::unique_ptr<Exchange> CreateAllToAllVExchange(Transport& transport, Device& device,
                                                  const ExchangeOptions& options) {
  return std::make_unique<AllToAllVExchange>(transport, device, options);
}

}  // namespace tokenferry

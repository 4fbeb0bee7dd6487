#include "comm/exchange/alltoallv/alltoallv_exchange.h"

#include "comm/exchange/path/exchange_rows.h"
#include "comm/exchange/path/output_return.h"
#include "comm/ops/row_codec_ops.h"
#include "comm/plan/exchange_planner.h"
#include "core/device/growing_buffer.h"

namespace tokenferry {
namespace {

class AllToAllVMover : public PathMover {
 public:
  explicit AllToAllVMover(const PathContext& context)
      : transport_(context.transport),
        device_(context.device),
        stats_(context.stats),
        row_bytes_(RowBytes(context.options.wire_dtype, context.options.hidden)),
        planner_(transport_, context.options.formats()),
        rows_(device_, context.options),
        output_return_(context),
        send_rows_(transport_.memory_kind(), "exchange: rows to send"),
        recv_rows_(transport_.memory_kind(), "exchange: rows received"),
        send_offsets_(transport_.num_ranks() + 1),
        recv_offsets_(transport_.num_ranks() + 1) {}

  absl::StatusOr<FloatMatrix> HomeRows(int64_t num_tokens) override { return rows_.Home(num_tokens); }

  absl::Status Plan(Stream& stream, const CallSite& site, const Routing& routing, const Placement& placement,
                    int64_t) override {
    return planner_.Plan(transport_, stream, site, routing, placement, plan_);
  }

  const ExchangePlan* host_plan() const override { return &plan_; }

  absl::Status BeginDispatch(Stream& stream, const CallSite& site, ConstFloatMatrix home_rows) override {
    TF_RETURN_IF_ERROR(send_rows_.Reserve(device_, plan_.num_send_rows() * row_bytes_));
    TF_RETURN_IF_ERROR(recv_rows_.Reserve(device_, plan_.num_recv_rows() * row_bytes_));
    TF_RETURN_IF_ERROR(row_token_.Upload(stream, plan_.send.row_token));
    rows_.Pack(stream, home_rows, row_token_.as<int32_t>(), plan_.num_send_rows(), send_rows_.data());
    ScaleOffsets(plan_.send.row_offsets, row_bytes_, send_offsets_);
    ScaleOffsets(plan_.recv.row_offsets, row_bytes_, recv_offsets_);
    for (int r = 0; r < transport_.num_ranks(); ++r) {
      stats_.dispatch_rows_per_rank[r] += plan_.send.row_offsets[r + 1] - plan_.send.row_offsets[r];
      stats_.dispatch_bytes_per_rank[r] += send_offsets_[r + 1] - send_offsets_[r];
    }
    TF_ASSIGN_OR_RETURN(
        transfer_, transport_.Begin(stream, At(site, "dispatch rows"),
                                    {send_rows_.data(), send_offsets_, recv_rows_.data(), recv_offsets_, row_bytes_}));
    return absl::OkStatus();
  }

  absl::StatusOr<ExpertRows> FinishDispatch(Stream& stream, const CallSite&) override {
    TF_RETURN_IF_ERROR(transport_.Finish(stream, transfer_));
    TF_ASSIGN_OR_RETURN(const void* rows, rows_.Widen(stream, recv_rows_.data(), plan_.num_recv_rows()));
    return rows_.ForExperts(stream, plan_.recv, rows, plan_.recv.row_idx);
  }

  absl::StatusOr<FloatMatrix> ExpertOut() override { return output_return_.ExpertOut(plan_); }

  absl::Status BeginCombine(Stream& stream, const CallSite& site) override {
    return output_return_.Begin(stream, site, plan_);
  }

  absl::Status FinishCombine(Stream& stream, const CallSite&, MatrixView<const float> weight,
                             MatrixView<float> out) override {
    return output_return_.Finish(stream, plan_, weight, out);
  }

 private:
  Transport& transport_;
  Device& device_;
  ExchangeStats& stats_;
  const int64_t row_bytes_;  // of a dispatched row
  ExchangePlanner planner_;
  ExchangePlan plan_;
  ExchangeRows rows_;
  OutputReturn output_return_;
  GrowingBuffer send_rows_, recv_rows_;
  GrowingBuffer row_token_{MemoryKind::kDevice, "exchange: token of each row"};
  std::vector<int64_t> send_offsets_, recv_offsets_;  // [R + 1] bytes
  TransferHandle transfer_;                           // between BeginDispatch and FinishDispatch
};

}  // namespace

std::unique_ptr<PathMover> CreateAllToAllVMover(const PathContext& context) {
  return std::make_unique<AllToAllVMover>(context);
}

}  // namespace tokenferry

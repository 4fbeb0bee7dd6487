#include "comm/alltoallv_exchange.h"

#include "comm/exchange_ops.h"
#include "comm/exchange_planner.h"
#include "core/device/growing_buffer.h"
#include "core/kernels/gather_rows.h"

namespace tokenferry {
namespace {

class AllToAllVExchange : public Exchange {
 public:
  AllToAllVExchange(Transport& transport, Device& device, const ExchangeOptions& options)
      : Exchange(ExchangePath::kAllToAllV, transport.num_ranks(), options),
        transport_(transport),
        device_(device),
        options_(options),
        row_bytes_(options.hidden * DTypeBytes(options.row_dtype)),
        out_bytes_(options.hidden * static_cast<int64_t>(sizeof(float))),
        planner_(transport, options),
        send_rows_(transport.memory_kind(), "exchange: rows to send"),
        recv_rows_(transport.memory_kind(), "exchange: rows received"),
        send_out_(transport.memory_kind(), "exchange: expert outputs to send back"),
        recv_out_(transport.memory_kind(), "exchange: expert outputs received back"),
        send_offsets_(transport.num_ranks() + 1),
        recv_offsets_(transport.num_ranks() + 1) {}

 private:
  absl::StatusOr<ExchangePlan> DoPlan(Stream& stream, const CallSite& site, const Routing& routing,
                                      const Placement& placement) override {
    return planner_.Plan(transport_, stream, site, routing, placement);
  }

  absl::StatusOr<ExpertRows> DoDispatch(Stream& stream, const CallSite& site, const ExchangePlan& plan,
                                        MatrixView<const float> hidden) override {
    TF_RETURN_IF_ERROR(send_rows_.Reserve(device_, plan.num_send_rows() * row_bytes_));
    TF_RETURN_IF_ERROR(recv_rows_.Reserve(device_, plan.num_recv_rows() * row_bytes_));
    TF_RETURN_IF_ERROR(row_token_.Upload(stream, plan.send.row_token));
    TF_RETURN_IF_ERROR(row_idx_.Upload(stream, plan.recv.row_idx));
    TF_RETURN_IF_ERROR(slot_offsets_.Upload(stream, plan.recv.slot_offsets));
    stream.Launch(kGatherRows,
                  {hidden, row_token_.as<int32_t>(), plan.num_send_rows(), send_rows_.data(), options_.row_dtype});
    ScaleOffsets(plan.send.row_offsets, row_bytes_, send_offsets_);
    ScaleOffsets(plan.recv.row_offsets, row_bytes_, recv_offsets_);
    TF_RETURN_IF_ERROR(transport_.AllToAllV(stream, At(site, "dispatch rows"),
                                            {send_rows_.data(), send_offsets_, recv_rows_.data(), recv_offsets_}));
    for (int r = 0; r < transport_.num_ranks(); ++r) {
      stats_.dispatch_rows_per_rank[r] += plan.send.row_offsets[r + 1] - plan.send.row_offsets[r];
      stats_.dispatch_bytes_per_rank[r] += send_offsets_[r + 1] - send_offsets_[r];
    }
    slot_offsets_host_ = plan.recv.slot_offsets;
    return ExpertRows{.rows = recv_rows_.data(),
                      .dtype = options_.row_dtype,
                      .hidden = options_.hidden,
                      .row_stride = options_.hidden,
                      .row_idx = row_idx_.as<int32_t>(),
                      .slot_offsets = slot_offsets_.as<int64_t>(),
                      .slot_offsets_host = &slot_offsets_host_,
                      .num_selections = plan.num_recv_selections()};
  }

  absl::StatusOr<MatrixView<float>> DoExpertOut(const ExchangePlan& plan) override {
    TF_RETURN_IF_ERROR(expert_out_.Reserve(device_, plan.num_recv_selections() * out_bytes_));
    return MakeMatrix<float>(expert_out_.data(), plan.num_recv_selections(), options_.hidden);
  }

  absl::Status DoCombine(Stream& stream, const CallSite& site, const ExchangePlan& plan, MatrixView<const float> weight,
                         MatrixView<float> out) override {
    TF_RETURN_IF_ERROR(send_out_.Reserve(device_, plan.num_recv_selections() * out_bytes_));
    TF_RETURN_IF_ERROR(recv_out_.Reserve(device_, plan.num_send_selections() * out_bytes_));
    TF_RETURN_IF_ERROR(return_selection_.Upload(stream, plan.recv.return_selection));
    TF_RETURN_IF_ERROR(combine_offsets_.Upload(stream, plan.send.combine_offsets));
    TF_RETURN_IF_ERROR(combine_selection_.Upload(stream, plan.send.combine_selection));
    TF_RETURN_IF_ERROR(combine_k_.Upload(stream, plan.send.combine_k));
    const auto expert_out = MakeMatrix<const float>(expert_out_.data(), plan.num_recv_selections(), options_.hidden);
    stream.Launch(kGatherRows, {expert_out, return_selection_.as<int32_t>(), plan.num_recv_selections(),
                                send_out_.data(), DType::kF32});
    ScaleOffsets(plan.recv.selection_offsets, out_bytes_, send_offsets_);
    ScaleOffsets(plan.send.selection_offsets, out_bytes_, recv_offsets_);
    TF_RETURN_IF_ERROR(transport_.AllToAllV(stream, At(site, "combine rows"),
                                            {send_out_.data(), send_offsets_, recv_out_.data(), recv_offsets_}));
    const auto returned = MakeMatrix<const float>(recv_out_.data(), plan.num_send_selections(), options_.hidden);
    stream.Launch(kCombineRows, {returned, combine_offsets_.as<int64_t>(), combine_selection_.as<int32_t>(),
                                 combine_k_.as<int32_t>(), weight, out});
    for (int r = 0; r < transport_.num_ranks(); ++r) {
      stats_.combine_bytes_per_rank[r] += send_offsets_[r + 1] - send_offsets_[r];
    }
    return absl::OkStatus();
  }

  Transport& transport_;
  Device& device_;
  const ExchangeOptions options_;
  const int64_t row_bytes_;  // of a dispatched row
  const int64_t out_bytes_;  // of an expert output
  ExchangePlanner planner_;
  GrowingBuffer send_rows_, recv_rows_, send_out_, recv_out_;
  GrowingBuffer expert_out_{MemoryKind::kDevice, "exchange: expert outputs"};
  GrowingBuffer row_token_{MemoryKind::kDevice, "exchange: token of each row"};
  GrowingBuffer row_idx_{MemoryKind::kDevice, "exchange: row of each selection"};
  GrowingBuffer slot_offsets_{MemoryKind::kDevice, "exchange: slot offsets"};
  GrowingBuffer return_selection_{MemoryKind::kDevice, "exchange: return order"};
  GrowingBuffer combine_offsets_{MemoryKind::kDevice, "exchange: combine offsets"};
  GrowingBuffer combine_selection_{MemoryKind::kDevice, "exchange: combine order"};
  GrowingBuffer combine_k_{MemoryKind::kDevice, "exchange: combine weights' positions"};
  std::vector<int64_t> slot_offsets_host_;            // of the last Dispatch
  std::vector<int64_t> send_offsets_, recv_offsets_;  // [R + 1] bytes
};

}  // namespace

std::unique_ptr<Exchange> CreateAllToAllVExchange(Transport& transport, Device& device,
                                                  const ExchangeOptions& options) {
  return std::make_unique<AllToAllVExchange>(transport, device, options);
}

}  // namespace tokenferry

#include "comm/exchange.h"

#include <cstring>
#include <numeric>

#include "absl/time/clock.h"
#include "comm/exchange_ops.h"
#include "core/check.h"
#include "core/kernels/gather_rows.h"

namespace tokenferry {
namespace {

constexpr int64_t kMaxHidden = int64_t{1} << 24;

// What every rank tells every other before anything else: what must be equal, and what it will send.
struct PlanHeader {
  uint64_t placement_digest = 0;
  int64_t hidden = 0;
  int32_t row_dtype = 0;
  int32_t cannot_plan = 0;  // this rank has an error: all end together
  int64_t num_rows = 0;
  int64_t num_selections = 0;
};
static_assert(sizeof(PlanHeader) == 40, "headers travel as bytes");

CallSite At(const CallSite& site, const char* phase) { return {phase, site.layer, site.step}; }

// Device memory that grows to the largest size asked for and is kept.
class GrowingBuffer {
 public:
  GrowingBuffer(MemoryKind kind, const char* label) : kind_(kind), label_(label) {}
  absl::Status Reserve(Device& device, int64_t num_bytes) {
    if (static_cast<size_t>(num_bytes) <= buffer_.num_bytes()) return absl::OkStatus();
    buffer_ = Buffer();  // first: both at once might not fit
    TF_ASSIGN_OR_RETURN(buffer_, device.Allocate(num_bytes, kind_, label_));
    return absl::OkStatus();
  }
  template <class T>
  absl::Status Upload(Stream& stream, const std::vector<T>& values) {
    const int64_t num_bytes = static_cast<int64_t>(values.size() * sizeof(T));
    TF_RETURN_IF_ERROR(Reserve(stream.device(), num_bytes));
    if (num_bytes > 0) stream.CopyToDevice(buffer_.data(), values.data(), num_bytes);
    return absl::OkStatus();
  }
  void* data() const { return buffer_.data(); }
  template <class T>
  T* as() const {
    return buffer_.as<T>();
  }

 private:
  MemoryKind kind_;
  const char* label_;
  Buffer buffer_;
};

class AllToAllVExchange : public Exchange {
 public:
  AllToAllVExchange(Transport& transport, Device& device, const ExchangeOptions& options)
      : transport_(transport),
        device_(device),
        options_(options),
        row_bytes_(options.hidden * DTypeBytes(options.row_dtype)),
        out_bytes_(options.hidden * static_cast<int64_t>(sizeof(float))),
        send_rows_(transport.memory_kind(), "exchange: rows to send"),
        recv_rows_(transport.memory_kind(), "exchange: rows received"),
        send_out_(transport.memory_kind(), "exchange: expert outputs to send back"),
        recv_out_(transport.memory_kind(), "exchange: expert outputs received back"),
        send_headers_(transport.num_ranks()),
        recv_headers_(transport.num_ranks()),
        header_offsets_(transport.num_ranks() + 1),
        send_offsets_(transport.num_ranks() + 1),
        recv_offsets_(transport.num_ranks() + 1) {
    for (size_t r = 0; r < header_offsets_.size(); ++r)
      header_offsets_[r] = static_cast<int64_t>(r * sizeof(PlanHeader));
    stats_.dispatch_rows_per_rank.resize(transport.num_ranks());
    stats_.dispatch_bytes_per_rank.resize(transport.num_ranks());
    stats_.combine_bytes_per_rank.resize(transport.num_ranks());
  }

  absl::StatusOr<ExchangePlan> Plan(Stream& stream, const CallSite& site, const Routing& routing,
                                    const Placement& placement) override {
    if (!error_.ok()) return error_;
    return Keep(MakePlan(stream, site, routing, placement));
  }

  absl::StatusOr<ExpertRows> Dispatch(Stream& stream, const CallSite& site, const ExchangePlan& plan,
                                      MatrixView<const float> hidden) override {
    if (!error_.ok()) return error_;
    return Keep(SendRows(stream, site, plan, hidden));
  }

  absl::Status Combine(Stream& stream, const CallSite& site, const ExchangePlan& plan,
                       MatrixView<const float> expert_out, MatrixView<const float> weight,
                       MatrixView<float> out) override {
    if (error_.ok()) error_ = ReturnAndSum(stream, site, plan, expert_out, weight, out);
    return error_;
  }

  const ExchangeStats& stats() const override { return stats_; }

 private:
  // After an error the ranks may be in different places: nothing more is tried.
  template <class T>
  absl::StatusOr<T> Keep(absl::StatusOr<T> result) {
    if (!result.ok()) error_ = result.status();
    return result;
  }

  absl::StatusOr<ExchangePlan> MakePlan(Stream& stream, const CallSite& site, const Routing& routing,
                                        const Placement& placement) {
    const absl::Time start = absl::Now();
    absl::StatusOr<SendPlan> send = PlanHome(stream, routing, placement);
    TF_RETURN_IF_ERROR(SwapHeaders(At(site, "plan counts"), send, placement));
    ExchangePlan plan{transport_.rank(), *std::move(send), {}};
    TF_ASSIGN_OR_RETURN(plan.recv, SwapSelections(At(site, "plan selections"), plan.send, placement));
    ++stats_.num_exchanges;
    stats_.num_tokens += plan.send.num_tokens;
    stats_.num_selections += plan.num_send_selections();
    stats_.plan_seconds += absl::ToDoubleSeconds(absl::Now() - start);
    return plan;
  }

  absl::StatusOr<ExpertRows> SendRows(Stream& stream, const CallSite& site, const ExchangePlan& plan,
                                      MatrixView<const float> hidden) {
    const absl::Time start = absl::Now();
    TF_CHECK_EQ(hidden.rows, plan.send.num_tokens);
    TF_CHECK_EQ(hidden.cols, options_.hidden);
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
    stats_.dispatch_seconds += absl::ToDoubleSeconds(absl::Now() - start);
    return ExpertRows{.rows = recv_rows_.data(),
                      .dtype = options_.row_dtype,
                      .hidden = options_.hidden,
                      .row_stride = options_.hidden,
                      .row_idx = row_idx_.as<int32_t>(),
                      .slot_offsets = slot_offsets_.as<int64_t>(),
                      .slot_offsets_host = &slot_offsets_host_,
                      .num_selections = plan.num_recv_selections()};
  }

  absl::Status ReturnAndSum(Stream& stream, const CallSite& site, const ExchangePlan& plan,
                            MatrixView<const float> expert_out, MatrixView<const float> weight, MatrixView<float> out) {
    const absl::Time start = absl::Now();
    TF_CHECK_EQ(expert_out.rows, plan.num_recv_selections());
    TF_CHECK_EQ(expert_out.cols, options_.hidden);
    TF_CHECK_EQ(out.rows, plan.send.num_tokens);
    TF_CHECK_EQ(out.cols, options_.hidden);
    TF_CHECK_EQ(weight.rows, plan.send.num_tokens);
    TF_RETURN_IF_ERROR(send_out_.Reserve(device_, plan.num_recv_selections() * out_bytes_));
    TF_RETURN_IF_ERROR(recv_out_.Reserve(device_, plan.num_send_selections() * out_bytes_));
    TF_RETURN_IF_ERROR(return_selection_.Upload(stream, plan.recv.return_selection));
    TF_RETURN_IF_ERROR(combine_offsets_.Upload(stream, plan.send.combine_offsets));
    TF_RETURN_IF_ERROR(combine_selection_.Upload(stream, plan.send.combine_selection));
    TF_RETURN_IF_ERROR(combine_k_.Upload(stream, plan.send.combine_k));
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
    stats_.combine_seconds += absl::ToDoubleSeconds(absl::Now() - start);
    return absl::OkStatus();
  }

  // The half of the plan that needs nobody else.
  absl::StatusOr<SendPlan> PlanHome(Stream& stream, const Routing& routing, const Placement& placement) {
    if (placement.num_ranks() != transport_.num_ranks()) {
      return absl::InvalidArgumentError(
          absl::StrCat("placement is for ", placement.num_ranks(), " ranks, but there are ", transport_.num_ranks()));
    }
    const MatrixView<int32_t>& experts = routing.expert_idx;
    host_expert_idx_.resize(experts.rows * experts.cols);
    const size_t row_bytes = experts.cols * sizeof(int32_t);
    if (experts.stride == experts.cols && !host_expert_idx_.empty()) {
      stream.CopyToHost(host_expert_idx_.data(), experts.data, experts.rows * row_bytes);
    } else if (row_bytes > 0) {
      for (int64_t t = 0; t < experts.rows; ++t) {
        stream.CopyToHost(host_expert_idx_.data() + t * experts.cols, experts.row(t), row_bytes);
      }
    }
    TF_RETURN_IF_ERROR(stream.Synchronize());
    return BuildSendPlan({host_expert_idx_, experts.rows, static_cast<int>(experts.cols)}, placement);
  }

  absl::Status SwapHeaders(const CallSite& site, const absl::StatusOr<SendPlan>& send, const Placement& placement) {
    for (int r = 0; r < transport_.num_ranks(); ++r) {
      PlanHeader& h = send_headers_[r];
      h = {placement.Digest(), options_.hidden, static_cast<int32_t>(options_.row_dtype), send.ok() ? 0 : 1, 0, 0};
      if (!send.ok()) continue;
      h.num_rows = send->row_offsets[r + 1] - send->row_offsets[r];
      h.num_selections = send->selection_offsets[r + 1] - send->selection_offsets[r];
    }
    absl::Status swapped =
        transport_.HostAllToAllV(site, {send_headers_.data(), header_offsets_, recv_headers_.data(), header_offsets_});
    if (!send.ok()) return Annotate(send.status(), absl::StrCat(ToString(site), ": rank ", transport_.rank().value));
    TF_RETURN_IF_ERROR(swapped);
    for (int r = 0; r < transport_.num_ranks(); ++r) TF_RETURN_IF_ERROR(CompareHeader(site, r));
    return absl::OkStatus();
  }

  absl::Status CompareHeader(const CallSite& site, int r) const {
    const PlanHeader &mine = send_headers_[r], &theirs = recv_headers_[r];
    const auto differ = [&](absl::string_view what, const auto& my_value, const auto& their_value) {
      return absl::FailedPreconditionError(absl::StrCat(
          ToString(site), ": ranks disagree on the ", what, ": rank ", transport_.rank().value, " has ", my_value,
          ", rank ", r, " has ", their_value, "; start all ranks with the same model and options"));
    };
    if (theirs.hidden != mine.hidden) return differ("hidden size", mine.hidden, theirs.hidden);
    if (theirs.row_dtype != mine.row_dtype) return differ("row dtype (number)", mine.row_dtype, theirs.row_dtype);
    if (theirs.placement_digest != mine.placement_digest) {
      return differ("placement (digest)", absl::Hex(mine.placement_digest), absl::Hex(theirs.placement_digest));
    }
    if (theirs.cannot_plan == 0) return absl::OkStatus();
    return absl::AbortedError(
        absl::StrCat(ToString(site), ": rank ", r, " could not plan this exchange; see its error"));
  }

  absl::StatusOr<RecvPlan> SwapSelections(const CallSite& site, const SendPlan& send, const Placement& placement) {
    const int num_ranks = transport_.num_ranks();
    std::vector<int64_t> row_counts(num_ranks), selection_counts(num_ranks);
    for (int r = 0; r < num_ranks; ++r) {
      row_counts[r] = recv_headers_[r].num_rows;
      selection_counts[r] = recv_headers_[r].num_selections;
    }
    TF_RETURN_IF_ERROR(Annotate(ValidateCounts(row_counts, selection_counts), ToString(site)));
    ScaleOffsets(send.selection_offsets, sizeof(WireSelection), send_offsets_);
    recv_offsets_[0] = 0;
    for (int r = 0; r < num_ranks; ++r) {
      recv_offsets_[r + 1] = recv_offsets_[r] + selection_counts[r] * static_cast<int64_t>(sizeof(WireSelection));
    }
    recv_selections_.resize(std::accumulate(selection_counts.begin(), selection_counts.end(), int64_t{0}));
    TF_RETURN_IF_ERROR(transport_.HostAllToAllV(
        site, {send.selections.data(), send_offsets_, recv_selections_.data(), recv_offsets_}));
    auto plan =
        BuildRecvPlan(row_counts, selection_counts, recv_selections_, placement.num_local_slots(transport_.rank()));
    if (!plan.ok()) return Annotate(plan.status(), ToString(site));
    return plan;
  }

  static void ScaleOffsets(const std::vector<int64_t>& offsets, int64_t num_bytes, std::vector<int64_t>& out) {
    for (size_t i = 0; i < offsets.size(); ++i) out[i] = offsets[i] * num_bytes;
  }

  Transport& transport_;
  Device& device_;
  const ExchangeOptions options_;
  const int64_t row_bytes_;  // of a dispatched row
  const int64_t out_bytes_;  // of an expert output
  absl::Status error_;
  ExchangeStats stats_;
  GrowingBuffer send_rows_, recv_rows_, send_out_, recv_out_;
  GrowingBuffer row_token_{MemoryKind::kDevice, "exchange: token of each row"};
  GrowingBuffer row_idx_{MemoryKind::kDevice, "exchange: row of each selection"};
  GrowingBuffer slot_offsets_{MemoryKind::kDevice, "exchange: slot offsets"};
  GrowingBuffer return_selection_{MemoryKind::kDevice, "exchange: return order"};
  GrowingBuffer combine_offsets_{MemoryKind::kDevice, "exchange: combine offsets"};
  GrowingBuffer combine_selection_{MemoryKind::kDevice, "exchange: combine order"};
  GrowingBuffer combine_k_{MemoryKind::kDevice, "exchange: combine weights' positions"};
  std::vector<int64_t> slot_offsets_host_;  // of the last Dispatch
  std::vector<int32_t> host_expert_idx_;
  std::vector<WireSelection> recv_selections_;
  std::vector<PlanHeader> send_headers_, recv_headers_;                // [R]
  std::vector<int64_t> header_offsets_, send_offsets_, recv_offsets_;  // [R + 1] bytes
};

}  // namespace

absl::StatusOr<std::unique_ptr<Exchange>> CreateAllToAllVExchange(Transport& transport, Device& device,
                                                                  const ExchangeOptions& options) {
  if (options.hidden < 1 || options.hidden > kMaxHidden) {
    return absl::InvalidArgumentError(
        absl::StrCat("exchange: hidden size ", options.hidden, " is not in 1 to ", kMaxHidden));
  }
  if (options.row_dtype != DType::kF32 && options.row_dtype != DType::kBF16) {
    return absl::InvalidArgumentError(
        absl::StrCat("exchange: rows of ", DTypeName(options.row_dtype), " cannot be dispatched; use F32 or BF16"));
  }
  return std::make_unique<AllToAllVExchange>(transport, device, options);
}

}  // namespace tokenferry

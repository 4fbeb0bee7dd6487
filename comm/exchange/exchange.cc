#include "comm/exchange/exchange.h"

#include <algorithm>

#include "comm/exchange/allgather/allgather_exchange.h"
#include "comm/exchange/alltoallv/alltoallv_exchange.h"
#include "comm/exchange/peer/peer_exchange.h"
#include "comm/exchange/two_level/two_level_exchange.h"
#include "comm/ops/row_codec_ops.h"
#include "comm/transport/topology.h"
#include "comm/tuning/exchange_choice.h"
#include "core/check.h"
#include "core/host/clock.h"
#include "core/kernels/gather_rows.h"

namespace tokenferry {
namespace {

constexpr int64_t kMaxHidden = int64_t{1} << 24;

absl::Status CheckOptions(const ExchangeOptions& options) {
  if (options.hidden < 1 || options.hidden > kMaxHidden) {
    return absl::InvalidArgumentError(
        absl::StrCat("exchange: hidden size ", options.hidden, " is not in 1 to ", kMaxHidden));
  }
  const auto is_float = [](DType dtype) { return dtype == DType::kF32 || dtype == DType::kBF16; };
  if (!is_float(options.wire_dtype) && !IsQuantised(options.wire_dtype)) {
    return absl::InvalidArgumentError(absl::StrCat("exchange: rows of ", DTypeName(options.wire_dtype),
                                                   " cannot be dispatched; use F32, BF16, F8_E4M3 or I8"));
  }
  if (!is_float(options.expert_dtype) || !is_float(options.output_dtype)) {
    return absl::InvalidArgumentError(absl::StrCat("exchange: experts read ", DTypeName(options.expert_dtype),
                                                   " and send back ", DTypeName(options.output_dtype),
                                                   "; both must be F32 or BF16"));
  }
  if (options.max_tokens < 0 || options.max_top_k < 0) {
    return absl::InvalidArgumentError(absl::StrCat("exchange: max_tokens ", options.max_tokens, " and max_top_k ",
                                                   options.max_top_k, " must not be negative"));
  }
  return absl::OkStatus();
}

}  // namespace

// Adds the time until it ends, and what of it was spent waiting for whom.
class Exchange::Watch {
 public:
  Watch(Exchange& exchange, double& seconds) : exchange_(exchange), seconds_(seconds) { AddWaits(-1); }
  ~Watch() {
    AddWaits(1);
    seconds_ += watch_.seconds();
  }

 private:
  void AddWaits(double sign) {
    const absl::Span<const double> now = exchange_.base_transport_.wait_seconds_per_rank();
    for (size_t r = 0; r < now.size(); ++r) exchange_.stats_.wait_seconds_per_rank[r] += sign * now[r];
  }

  Exchange& exchange_;
  double& seconds_;
  const Stopwatch watch_;
};

const char* ExchangePathName(ExchangePath path) {
  switch (path) {
    case ExchangePath::kAuto:
      return "auto";
    case ExchangePath::kPeer:
      return "peer";
    case ExchangePath::kAllToAllV:
      return "alltoallv";
    case ExchangePath::kAllGather:
      return "allgather";
    case ExchangePath::kTwoLevel:
      return "two_level";
  }
  return "?";
}

ExchangeStats& ExchangeStats::operator+=(const ExchangeStats& other) {
  const auto add = [](auto& sums, const auto& terms) {
    for (size_t r = 0; r < sums.size(); ++r) sums[r] += terms[r];
  };
  num_exchanges += other.num_exchanges;
  num_tokens += other.num_tokens;
  num_selections += other.num_selections;
  add(dispatch_rows_per_rank, other.dispatch_rows_per_rank);
  add(dispatch_bytes_per_rank, other.dispatch_bytes_per_rank);
  add(combine_bytes_per_rank, other.combine_bytes_per_rank);
  add(wait_seconds_per_rank, other.wait_seconds_per_rank);
  bases += other.bases;
  peak_peer_bytes += other.peak_peer_bytes;
  plan_seconds += other.plan_seconds;
  dispatch_seconds += other.dispatch_seconds;
  combine_seconds += other.combine_seconds;
  return *this;
}

Exchange::Exchange(ExchangePath path, const Transport& transport, Device& device, const ExchangeOptions& options)
    : base_transport_(transport),
      device_(device),
      topology_(Topology::Of(transport)),
      hidden_(options.hidden),
      wire_dtype_(options.wire_dtype),
      resident_dtype_(options.resident_dtype()) {
  const int num_ranks = transport.num_ranks();
  stats_.path = path;
  const bool is_shared = path == ExchangePath::kPeer;  // nothing travels: rows lie as experts read them, outputs too
  stats_.row_bytes = RowBytes(is_shared ? options.resident_dtype() : options.wire_dtype, options.hidden);
  stats_.output_bytes = RowBytes(options.output_dtype, options.hidden);
  stats_.wait_seconds_per_rank.resize(num_ranks);
  stats_.dispatch_rows_per_rank.resize(num_ranks);
  stats_.dispatch_bytes_per_rank.resize(num_ranks);
  stats_.combine_bytes_per_rank.resize(num_ranks);
}

// A call out of turn is refused here: the other ranks could only wait for one that never comes.
absl::Status Exchange::Enter(Call call, const CallSite& site) {
  if (!error_.ok()) return error_;
  if (call != next_) {
    static constexpr const char* kNames[] = {"Plan", "Dispatch", "FinishDispatch", "Combine", "FinishCombine"};
    error_ = absl::FailedPreconditionError(absl::StrCat(ToString(site), ": exchange: ", kNames[static_cast<int>(call)],
                                                        " was called where ", kNames[static_cast<int>(next_)],
                                                        " comes next"));
    return error_;
  }
  next_ = static_cast<Call>((static_cast<int>(call) + 1) % 5);
  return absl::OkStatus();
}

absl::StatusOr<FloatMatrix> Exchange::HomeRows(int64_t num_tokens) {
  if (!error_.ok()) return error_;
  auto rows = DoHomeRows(num_tokens);
  error_ = rows.status();
  return rows;
}

absl::StatusOr<FloatMatrix> Exchange::DoHomeRows(int64_t num_tokens) {
  TF_RETURN_IF_ERROR(home_rows_.Reserve(device_, num_tokens * hidden_ * DTypeBytes(resident_dtype_)));
  return FloatMatrix(home_rows_.data(), resident_dtype_, num_tokens, hidden_);
}

void Exchange::PackRows(Stream& stream, ConstFloatMatrix rows, const int32_t* idx, int64_t num_rows, void* out) const {
  if (IsQuantised(wire_dtype_)) {
    stream.Launch(kQuantiseRows, {rows, idx, num_rows, out, wire_dtype_});
  } else {
    stream.Launch(kGatherRows, {rows, idx, num_rows, out, wire_dtype_});
  }
}

absl::StatusOr<const void*> Exchange::WidenRows(Stream& stream, const void* rows, int64_t num_rows) {
  if (!IsQuantised(wire_dtype_)) return rows;
  TF_RETURN_IF_ERROR(wide_rows_.Reserve(device_, num_rows * RowBytes(resident_dtype_, hidden_)));
  stream.Launch(kWidenRows, {rows, wire_dtype_, num_rows, hidden_, wide_rows_.data(), resident_dtype_});
  return wide_rows_.data();
}

absl::StatusOr<ExpertRows> Exchange::MakeExpertRows(Stream& stream, const RecvPlan& plan, const void* rows,
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

absl::Status Exchange::Plan(Stream& stream, const CallSite& site, const Routing& routing, const Placement& placement) {
  TF_RETURN_IF_ERROR(Enter(Call::kPlan, site));
  Watch watch(*this, stats_.plan_seconds);
  error_ = DoPlan(stream, site, routing, placement, plan_);
  if (!error_.ok()) return error_;
  ++stats_.num_exchanges;
  stats_.num_tokens += plan_.send.num_tokens;
  stats_.num_selections += plan_.num_send_selections();
  stats_.bases += CountBases(plan_.send, topology_, plan_.rank, last_host_);
  return absl::OkStatus();
}

absl::StatusOr<ExpertRows> Exchange::Dispatch(Stream& stream, const CallSite& site, ConstFloatMatrix rows) {
  TF_RETURN_IF_ERROR(BeginDispatch(stream, site, rows));
  return FinishDispatch(stream, site);
}

absl::Status Exchange::BeginDispatch(Stream& stream, const CallSite& site, ConstFloatMatrix rows) {
  TF_RETURN_IF_ERROR(Enter(Call::kDispatch, site));
  TF_CHECK_EQ(rows.rows, plan_.send.num_tokens);
  TF_CHECK_EQ(rows.cols, hidden_);
  TF_CHECK(rows.dtype == DType::kF32 || wire_dtype_ != DType::kF32);
  Watch watch(*this, stats_.dispatch_seconds);
  dispatched_rows_ = rows;
  error_ = DoBeginDispatch(stream, site, plan_, rows);
  return error_;
}

absl::StatusOr<ExpertRows> Exchange::FinishDispatch(Stream& stream, const CallSite& site) {
  TF_RETURN_IF_ERROR(Enter(Call::kFinishDispatch, site));
  Watch watch(*this, stats_.dispatch_seconds);
  auto arrived = DoDispatch(stream, site, plan_, dispatched_rows_);
  error_ = arrived.status();
  return arrived;
}

absl::StatusOr<FloatMatrix> Exchange::ExpertOut() {
  if (!error_.ok()) return error_;
  auto out = DoExpertOut(plan_);
  error_ = out.status();
  return out;
}

absl::Status Exchange::Combine(Stream& stream, const CallSite& site, MatrixView<const float> weight,
                               MatrixView<float> out) {
  TF_RETURN_IF_ERROR(BeginCombine(stream, site));
  return FinishCombine(stream, site, weight, out);
}

absl::Status Exchange::BeginCombine(Stream& stream, const CallSite& site) {
  TF_RETURN_IF_ERROR(Enter(Call::kCombine, site));
  Watch watch(*this, stats_.combine_seconds);
  error_ = DoBeginCombine(stream, site, plan_);
  return error_;
}

absl::Status Exchange::FinishCombine(Stream& stream, const CallSite& site, MatrixView<const float> weight,
                                     MatrixView<float> out) {
  TF_RETURN_IF_ERROR(Enter(Call::kFinishCombine, site));
  TF_CHECK_EQ(out.rows, plan_.send.num_tokens);
  TF_CHECK_EQ(out.cols, hidden_);
  TF_CHECK_EQ(weight.rows, plan_.send.num_tokens);
  Watch watch(*this, stats_.combine_seconds);
  error_ = DoCombine(stream, site, plan_, weight, out);
  return error_;
}

absl::StatusOr<ExchangeStats> Exchange::stats(Stream&) const { return stats_; }

absl::StatusOr<std::unique_ptr<Exchange>> CreateExchange(Transport& transport, Device& device,
                                                         const ExchangeOptions& options) {
  TF_RETURN_IF_ERROR(CheckOptions(options));
  switch (options.path) {
    case ExchangePath::kAuto:
      return CreateAutomaticExchange(transport, device, options);
    case ExchangePath::kPeer:
      return CreatePeerExchange(transport, device, options);
    case ExchangePath::kAllToAllV:
      return CreateAllToAllVExchange(transport, device, options);
    case ExchangePath::kAllGather:
      return CreateAllGatherExchange(transport, device, options);
    case ExchangePath::kTwoLevel:
      return CreateTwoLevelExchange(transport, device, options, Topology::Of(transport));
  }
  return absl::InternalError(absl::StrCat("exchange: unknown path ", static_cast<int>(options.path)));
}

}  // namespace tokenferry

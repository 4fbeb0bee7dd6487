#include "comm/exchange/exchange.h"

#include "comm/ops/row_codec_ops.h"
#include "comm/plan/exchange_planner.h"
#include "core/check.h"
#include "core/host/clock.h"

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
    const absl::Span<const double> now = exchange_.transport_.wait_seconds_per_rank();
    for (size_t r = 0; r < now.size(); ++r) exchange_.stats_.wait_seconds_per_rank[r] += sign * now[r];
  }

  Exchange& exchange_;
  double& seconds_;
  const Stopwatch watch_;
};

Exchange::Exchange(Transport& transport, Device& device, const ExchangeOptions& options)
    : transport_(transport),
      device_(device),
      options_(options),
      topology_(Topology::Of(transport)),
      stats_(ExchangeStats::For(options, transport.num_ranks())) {}

absl::StatusOr<std::unique_ptr<Exchange>> Exchange::Create(Transport& transport, Device& device,
                                                           const ExchangeOptions& options) {
  TF_CHECK(options.path != ExchangePath::kAuto);
  return Create(transport, device, options, InfoOf(options.path).create);
}

absl::StatusOr<std::unique_ptr<Exchange>> Exchange::Create(Transport& transport, Device& device,
                                                           const ExchangeOptions& options, const MakePath& make_path) {
  TF_RETURN_IF_ERROR(CheckOptions(options));
  std::unique_ptr<Exchange> exchange(new Exchange(transport, device, options));
  TF_ASSIGN_OR_RETURN(exchange->path_, make_path({exchange->transport_, exchange->device_, exchange->options_,
                                                  exchange->topology_, exchange->stats_}));
  return exchange;
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
  auto rows = path_->HomeRows(num_tokens);
  error_ = rows.status();
  return rows;
}

absl::Status Exchange::Plan(Stream& stream, const CallSite& site, const Routing& routing, const Placement& placement,
                            int64_t most_tokens) {
  TF_RETURN_IF_ERROR(Enter(Call::kPlan, site));
  Watch watch(*this, stats_.plan_seconds);
  num_tokens_ = routing.expert_idx.rows;
  if (most_tokens > 0 && num_tokens_ > most_tokens) {
    error_ = absl::InvalidArgumentError(absl::StrCat(
        ToString(At(site, "plan")), ": exchange: rank ", transport_.rank().value, " has ", num_tokens_,
        " tokens, but most_tokens says that no rank has more than ", most_tokens, "; give the most of all ranks"));
    return error_;
  }
  error_ = path_->Plan(stream, site, routing, placement, most_tokens);
  if (!error_.ok()) return error_;
  const ExchangePlan* const plan = host_plan();
  if (plan == nullptr) return absl::OkStatus();  // counted on the device
  ++stats_.num_exchanges;
  for (int64_t t = 0; t < num_tokens_; ++t) {
    stats_.num_tokens += plan->send.combine_offsets[t + 1] > plan->send.combine_offsets[t] ? 1 : 0;
  }
  stats_.num_selections += plan->num_send_selections();
  stats_.bases += CountBases(plan->send, topology_, plan->rank, last_host_);
  return absl::OkStatus();
}

absl::StatusOr<ExpertRows> Exchange::Dispatch(Stream& stream, const CallSite& site, ConstFloatMatrix rows) {
  TF_RETURN_IF_ERROR(BeginDispatch(stream, site, rows));
  return FinishDispatch(stream, site);
}

absl::Status Exchange::BeginDispatch(Stream& stream, const CallSite& site, ConstFloatMatrix rows) {
  TF_RETURN_IF_ERROR(Enter(Call::kDispatch, site));
  TF_CHECK_EQ(rows.rows, num_tokens_);
  TF_CHECK_EQ(rows.cols, options_.hidden);
  TF_CHECK(rows.dtype == DType::kF32 || options_.wire_dtype != DType::kF32);
  Watch watch(*this, stats_.dispatch_seconds);
  error_ = path_->BeginDispatch(stream, site, rows);
  return error_;
}

absl::StatusOr<ExpertRows> Exchange::FinishDispatch(Stream& stream, const CallSite& site) {
  TF_RETURN_IF_ERROR(Enter(Call::kFinishDispatch, site));
  Watch watch(*this, stats_.dispatch_seconds);
  auto arrived = path_->FinishDispatch(stream, site);
  error_ = arrived.status();
  return arrived;
}

absl::StatusOr<FloatMatrix> Exchange::ExpertOut() {
  if (!error_.ok()) return error_;
  auto out = path_->ExpertOut();
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
  error_ = path_->BeginCombine(stream, site);
  return error_;
}

absl::Status Exchange::FinishCombine(Stream& stream, const CallSite& site, MatrixView<const float> weight,
                                     MatrixView<float> out) {
  TF_RETURN_IF_ERROR(Enter(Call::kFinishCombine, site));
  TF_CHECK_EQ(out.rows, num_tokens_);
  TF_CHECK_EQ(out.cols, options_.hidden);
  TF_CHECK_EQ(weight.rows, num_tokens_);
  Watch watch(*this, stats_.combine_seconds);
  error_ = path_->FinishCombine(stream, site, weight, out);
  return error_;
}

absl::StatusOr<ExchangeStats> Exchange::stats(Stream& stream) const {
  ExchangeStats stats = stats_;
  TF_RETURN_IF_ERROR(path_->AddDeviceStats(stream, stats));
  return stats;
}

}  // namespace tokenferry

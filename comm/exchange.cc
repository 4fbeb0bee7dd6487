#include "comm/exchange.h"

#include "absl/time/clock.h"
#include "comm/alltoallv_exchange.h"
#include "comm/collectives.h"
#include "comm/peer_exchange.h"
#include "comm/topology.h"
#include "core/check.h"
#include "core/log.h"

namespace tokenferry {
namespace {

constexpr int64_t kMaxHidden = int64_t{1} << 24;

absl::Status CheckOptions(const ExchangeOptions& options) {
  if (options.hidden < 1 || options.hidden > kMaxHidden) {
    return absl::InvalidArgumentError(
        absl::StrCat("exchange: hidden size ", options.hidden, " is not in 1 to ", kMaxHidden));
  }
  if (options.row_dtype != DType::kF32 && options.row_dtype != DType::kBF16) {
    return absl::InvalidArgumentError(
        absl::StrCat("exchange: rows of ", DTypeName(options.row_dtype), " cannot be dispatched; use F32 or BF16"));
  }
  if (options.max_tokens < 0 || options.max_top_k < 0) {
    return absl::InvalidArgumentError(absl::StrCat("exchange: max_tokens ", options.max_tokens, " and max_top_k ",
                                                   options.max_top_k, " must not be negative"));
  }
  return absl::OkStatus();
}

// Adds the time until it ends.
class Stopwatch {
 public:
  explicit Stopwatch(double& seconds) : seconds_(seconds), start_(absl::GetCurrentTimeNanos()) {}
  ~Stopwatch() { seconds_ += static_cast<double>(absl::GetCurrentTimeNanos() - start_) * 1e-9; }

 private:
  double& seconds_;
  const int64_t start_;
};

}  // namespace

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

Exchange::Exchange(ExchangePath path, int num_ranks, const ExchangeOptions& options) : hidden_(options.hidden) {
  stats_.path = path;
  stats_.dispatch_rows_per_rank.resize(num_ranks);
  stats_.dispatch_bytes_per_rank.resize(num_ranks);
  stats_.combine_bytes_per_rank.resize(num_ranks);
}

absl::StatusOr<ExchangePlan> Exchange::Plan(Stream& stream, const CallSite& site, const Routing& routing,
                                            const Placement& placement) {
  if (!error_.ok()) return error_;
  Stopwatch watch(stats_.plan_seconds);
  auto plan = DoPlan(stream, site, routing, placement);
  error_ = plan.status();
  if (!plan.ok()) return plan;
  ++stats_.num_exchanges;
  stats_.num_tokens += plan->send.num_tokens;
  stats_.num_selections += plan->num_send_selections();
  return plan;
}

absl::StatusOr<ExpertRows> Exchange::Dispatch(Stream& stream, const CallSite& site, const ExchangePlan& plan,
                                              MatrixView<const float> hidden) {
  if (!error_.ok()) return error_;
  TF_CHECK_EQ(hidden.rows, plan.send.num_tokens);
  TF_CHECK_EQ(hidden.cols, hidden_);
  Stopwatch watch(stats_.dispatch_seconds);
  auto rows = DoDispatch(stream, site, plan, hidden);
  error_ = rows.status();
  return rows;
}

absl::StatusOr<MatrixView<float>> Exchange::ExpertOut(const ExchangePlan& plan) {
  if (!error_.ok()) return error_;
  auto out = DoExpertOut(plan);
  error_ = out.status();
  return out;
}

absl::Status Exchange::Combine(Stream& stream, const CallSite& site, const ExchangePlan& plan,
                               MatrixView<const float> weight, MatrixView<float> out) {
  if (!error_.ok()) return error_;
  TF_CHECK_EQ(out.rows, plan.send.num_tokens);
  TF_CHECK_EQ(out.cols, hidden_);
  TF_CHECK_EQ(weight.rows, plan.send.num_tokens);
  Stopwatch watch(stats_.combine_seconds);
  error_ = DoCombine(stream, site, plan, weight, out);
  return error_;
}

absl::StatusOr<std::unique_ptr<Exchange>> CreateExchange(Transport& transport, Device& device,
                                                         const ExchangeOptions& options) {
  TF_RETURN_IF_ERROR(CheckOptions(options));
  switch (options.path) {
    case ExchangePath::kAuto: {
      if (Topology::Of(transport).num_hosts() > 1) return CreateAllToAllVExchange(transport, device, options);
      auto peer = CreatePeerExchange(transport, device, options);
      if (peer.ok() || !IsAgreedOn(peer.status())) return peer;  // all ranks go the same way
      if (transport.rank() == RankId(0)) LogWarning(absl::StrCat("taking path alltoallv: ", peer.status().message()));
      return CreateAllToAllVExchange(transport, device, options);
    }
    case ExchangePath::kPeer:
      return CreatePeerExchange(transport, device, options);
    case ExchangePath::kAllToAllV:
      return CreateAllToAllVExchange(transport, device, options);
    case ExchangePath::kAllGather:
    case ExchangePath::kTwoLevel:
      break;
  }
  return absl::UnimplementedError(absl::StrCat("exchange: path ", ExchangePathName(options.path),
                                               " is not there yet; use auto, peer or alltoallv"));
}

}  // namespace tokenferry

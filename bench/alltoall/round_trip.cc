#include "bench/alltoall/round_trip.h"

#include "bench/alltoall/bench_ops.h"
#include "comm/transport/collectives.h"
#include "comm/transport/topology.h"
#include "core/check.h"
#include "core/host/clock.h"

namespace tokenferry {
namespace {

constexpr CallSite kMeet{.phase = "bench: meet"};

// Grows `buffer` to `num_bytes`.
absl::Status Reserve(Device& device, int64_t num_bytes, const char* label, Buffer* buffer) {
  if (static_cast<size_t>(num_bytes) <= buffer->num_bytes()) return absl::OkStatus();
  *buffer = Buffer();
  TF_ASSIGN_OR_RETURN(*buffer, device.Allocate(num_bytes, MemoryKind::kDevice, label));
  return absl::OkStatus();
}

}  // namespace

double MonotonicSeconds() { return static_cast<double>(SteadyNanos()) * 1e-9; }

absl::Status RoundTrip::Prepare() {
  const std::vector<float> factors = problem_.SlotFactors();
  TF_ASSIGN_OR_RETURN(stream_, device_.CreateStream());
  TF_RETURN_IF_ERROR(Reserve(device_, factors.size() * sizeof(float), "bench: expert factors", &slot_factor_));
  stream_->CopyToDevice(slot_factor_.data(), factors.data(), factors.size() * sizeof(float));
  // They stay there: an exchange does not change them.
  TF_ASSIGN_OR_RETURN(home_rows_, exchange_.HomeRows(problem_.num_tokens()));
  const ConstFloatMatrix given = problem_.hidden();
  TF_CHECK(home_rows_.dtype == given.dtype);
  stream_->CopyOnDevice(home_rows_.data, given.data, given.rows * given.cols * given.element_bytes());
  return stream_->Synchronize();
}

absl::Status RoundTrip::ReadRows(const ExpertRows& rows) {
  stream_->Launch(kReadRows, {.rows = rows.rows,
                              .row_stride = rows.row_stride * DTypeBytes(rows.dtype),
                              .row_bytes = rows.hidden * DTypeBytes(rows.dtype),
                              .row_idx = rows.row_idx,
                              .num_selections = rows.max_selections,
                              .checksum = checksum_.as<uint64_t>()});
  return stream_->Synchronize();
}

absl::StatusOr<PhaseSeconds> RoundTrip::Run() {
  PhaseSeconds seconds;
  TF_RETURN_IF_ERROR(Barrier(transport_, kMeet));
  double start = MonotonicSeconds();
  const auto lap = [&start](double* phase) {
    const double now = MonotonicSeconds();
    *phase = now - start;
    start = now;
  };
  TF_RETURN_IF_ERROR(exchange_.Plan(*stream_, {"plan"}, problem_.routing(), problem_.placement()));
  lap(&seconds.plan);
  TF_ASSIGN_OR_RETURN(const ExpertRows rows, exchange_.Dispatch(*stream_, {"dispatch"}, home_rows_));
  TF_RETURN_IF_ERROR(stream_->Synchronize());
  lap(&seconds.dispatch);
  TF_RETURN_IF_ERROR(
      Reserve(device_, rows.max_selections * sizeof(uint64_t), "bench: checksums", &checksum_));  // first run only
  start = MonotonicSeconds();
  TF_RETURN_IF_ERROR(ReadRows(rows));
  lap(&seconds.expert_read);
  TF_RETURN_IF_ERROR(Barrier(transport_, kMeet));  // experts' work is nobody's exchange, also where ranks share cores

  std::vector<uint64_t> sums(rows.max_selections);
  stream_->CopyToHost(sums.data(), checksum_.data(), sums.size() * sizeof(uint64_t));
  TF_ASSIGN_OR_RETURN(const FloatMatrix expert_out, exchange_.ExpertOut());
  stream_->Launch(kTransformRows, {.rows = rows.rows,
                                   .dtype = rows.dtype,
                                   .row_stride = rows.row_stride,
                                   .row_idx = rows.row_idx,
                                   .slot_offsets = rows.slot_offsets,
                                   .slot_factor = slot_factor_.as<float>(),
                                   .num_slots = problem_.placement().num_local_slots(problem_.rank()),
                                   .hidden = rows.hidden,
                                   .out = expert_out.data,
                                   .out_stride = expert_out.stride,
                                   .out_dtype = expert_out.dtype});
  TF_RETURN_IF_ERROR(stream_->Synchronize());
  uint64_t checksum = 0;  // by position, so that exchanged rows show
  for (const uint64_t sum : sums) checksum = checksum * 0x9E3779B97F4A7C15u + sum;
  if (num_selections_ < 0) {
    num_selections_ = rows.max_selections;
    first_checksum_ = checksum;
  }
  const bool same = num_selections_ == rows.max_selections && first_checksum_ == checksum;
  if (const ExchangePlan* const plan = exchange_.host_plan()) {
    row_idx_ = plan->recv.row_idx;
    num_recv_rows_ = plan->num_recv_rows();
  }

  TF_RETURN_IF_ERROR(Barrier(transport_, kMeet));
  start = MonotonicSeconds();
  TF_RETURN_IF_ERROR(exchange_.Combine(*stream_, {"combine"}, problem_.routing().weight, problem_.out()));
  TF_RETURN_IF_ERROR(stream_->Synchronize());
  lap(&seconds.combine);
  if (same) return seconds;
  return absl::DataLossError(absl::StrCat("rank ", problem_.rank().value,
                                          " was given other rows than in the first run (", problem_.point().ToString(),
                                          ")"));
}

absl::Status RoundTrip::Verify() {
  // NaN first, so that a result which nobody writes shows.
  const MatrixView<float> out = problem_.out();
  std::vector<float> results(out.rows * out.cols);
  stream_->Fill(out.data, 0xFF, results.size() * sizeof(float));
  TF_RETURN_IF_ERROR(stream_->Synchronize());
  TF_RETURN_IF_ERROR(Run().status());
  stream_->CopyToHost(results.data(), out.data, results.size() * sizeof(float));
  TF_RETURN_IF_ERROR(stream_->Synchronize());
  std::vector<int> host_per_rank;  // empty: sums are not by host
  if (reduction_ == Reduction::kNode && exchange_.path() == ExchangePath::kTwoLevel) {
    host_per_rank = Topology::Of(transport_).host_idx_per_rank;
  }
  return AgreeOnStatus(transport_, {.phase = "bench: verify"},
                       problem_.CheckRows(results, BenchProblem::Match::kExact, host_per_rank));
}

absl::StatusOr<LocalReadSeconds> RoundTrip::LocalRead() {
  const int64_t row_bytes = problem_.point().hidden * DTypeBytes(problem_.point().given_dtype());
  const auto num_selections = static_cast<int64_t>(row_idx_.size());
  if (local_rows_.num_bytes() < static_cast<size_t>(num_recv_rows_ * row_bytes)) {
    TF_RETURN_IF_ERROR(Reserve(device_, num_recv_rows_ * row_bytes, "bench: local rows", &local_rows_));
    stream_->Fill(local_rows_.data(), 1, num_recv_rows_ * row_bytes);
  }
  TF_RETURN_IF_ERROR(Reserve(device_, num_selections * sizeof(int32_t), "bench: local order", &local_idx_));
  stream_->CopyToDevice(local_idx_.data(), row_idx_.data(), num_selections * sizeof(int32_t));
  TF_RETURN_IF_ERROR(stream_->Synchronize());
  LocalReadSeconds seconds;
  TF_RETURN_IF_ERROR(Barrier(transport_, kMeet));
  double start = MonotonicSeconds();
  TF_RETURN_IF_ERROR(Barrier(transport_, kMeet));
  seconds.meet = MonotonicSeconds() - start;
  TF_RETURN_IF_ERROR(Barrier(transport_, kMeet));
  start = MonotonicSeconds();
  TF_RETURN_IF_ERROR(Barrier(transport_, kMeet));
  TF_RETURN_IF_ERROR(ReadRows({.rows = local_rows_.data(),
                               .dtype = problem_.point().given_dtype(),
                               .hidden = problem_.point().hidden,
                               .row_stride = problem_.point().hidden,
                               .row_idx = local_idx_.as<int32_t>(),
                               .max_selections = num_selections}));
  seconds.read = MonotonicSeconds() - start;
  return seconds;
}

}  // namespace tokenferry

#include "bench/alltoall/round_trip.h"

#include <algorithm>

#include "bench/alltoall/bench_ops.h"
#include "bench/measure/call_sites.h"
#include "comm/transport/collectives.h"
#include "comm/transport/topology.h"
#include "core/check.h"
#include "core/host/clock.h"

namespace tokenferry {
namespace {

// Where a phase ends or begins; they are told apart by the device's clock.
enum Point : int {
  kBegin,
  kPlanned,
  kDispatched,
  kReadBegins,
  kReadEnds,
  kCombineBegins,
  kCombineEnds,
  kNumPoints,
};

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
  TF_ASSIGN_OR_RETURN(timer_, StreamTimer::Create(device_, kNumPoints));
  TF_RETURN_IF_ERROR(Reserve(device_, factors.size() * sizeof(float), "bench: expert factors", &slot_factor_));
  stream_->CopyToDevice(slot_factor_.data(), factors.data(), factors.size() * sizeof(float));
  // They stay there: an exchange does not change them.
  TF_ASSIGN_OR_RETURN(home_rows_, exchange_.HomeRows(problem_.num_tokens()));
  const ConstFloatMatrix given = problem_.hidden();
  TF_CHECK(home_rows_.dtype == given.dtype);
  stream_->CopyOnDevice(home_rows_.data, given.data, given.rows * given.cols * given.element_bytes());
  return stream_->Synchronize();
}

void RoundTrip::ReadRows(const ExpertRows& rows) {
  const int64_t* const num_read = rows.slot_offsets == nullptr
                                      ? nullptr
                                      : rows.slot_offsets + problem_.placement().num_local_slots(problem_.rank());
  stream_->Launch(kReadRows, {.rows = rows.rows,
                              .row_stride = rows.row_stride * DTypeBytes(rows.dtype),
                              .row_bytes = rows.hidden * DTypeBytes(rows.dtype),
                              .row_idx = rows.row_idx,
                              .num_selections = rows.max_selections,
                              .num_read = num_read,
                              .checksum = checksum_.as<uint64_t>()});
}

absl::StatusOr<PhaseSeconds> RoundTrip::Run() {
  TF_RETURN_IF_ERROR(Barrier(transport_, kMeet));
  TF_RETURN_IF_ERROR(timer_->Mark(*stream_, kBegin));
  TF_RETURN_IF_ERROR(exchange_.Plan(*stream_, {"plan"}, problem_.routing(), problem_.placement()));
  TF_RETURN_IF_ERROR(timer_->Mark(*stream_, kPlanned));
  TF_ASSIGN_OR_RETURN(const ExpertRows rows, exchange_.Dispatch(*stream_, {"dispatch"}, home_rows_));
  TF_RETURN_IF_ERROR(timer_->Mark(*stream_, kDispatched));
  TF_RETURN_IF_ERROR(stream_->Synchronize());
  TF_RETURN_IF_ERROR(
      Reserve(device_, rows.max_selections * sizeof(uint64_t), "bench: checksums", &checksum_));  // first run only
  TF_RETURN_IF_ERROR(timer_->Mark(*stream_, kReadBegins));
  ReadRows(rows);
  TF_RETURN_IF_ERROR(timer_->Mark(*stream_, kReadEnds));
  TF_RETURN_IF_ERROR(stream_->Synchronize());
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
                                   .max_selections = rows.max_selections,
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
  TF_RETURN_IF_ERROR(KeepOrder(rows));

  TF_RETURN_IF_ERROR(Barrier(transport_, kMeet));
  TF_RETURN_IF_ERROR(timer_->Mark(*stream_, kCombineBegins));
  TF_RETURN_IF_ERROR(exchange_.Combine(*stream_, {"combine"}, problem_.routing().weight, problem_.out()));
  TF_RETURN_IF_ERROR(timer_->Mark(*stream_, kCombineEnds));
  TF_RETURN_IF_ERROR(stream_->Synchronize());
  PhaseSeconds seconds;
  TF_ASSIGN_OR_RETURN(seconds.plan, timer_->Seconds(kBegin, kPlanned));
  TF_ASSIGN_OR_RETURN(seconds.dispatch, timer_->Seconds(kPlanned, kDispatched));
  TF_ASSIGN_OR_RETURN(seconds.expert_read, timer_->Seconds(kReadBegins, kReadEnds));
  TF_ASSIGN_OR_RETURN(seconds.combine, timer_->Seconds(kCombineBegins, kCombineEnds));
  if (same) return seconds;
  return absl::DataLossError(absl::StrCat("rank ", problem_.rank().value,
                                          " was given other rows than in the first run (", problem_.point().ToString(),
                                          ")"));
}

absl::Status RoundTrip::KeepOrder(const ExpertRows& rows) {
  if (const ExchangePlan* const plan = exchange_.host_plan()) {
    row_idx_ = plan->recv.row_idx;
    num_recv_rows_ = plan->num_recv_rows();
    return absl::OkStatus();
  }
  int64_t num_selections = 0;
  const int num_slots = problem_.placement().num_local_slots(problem_.rank());
  stream_->CopyToHost(&num_selections, rows.slot_offsets + num_slots, sizeof(num_selections));
  TF_RETURN_IF_ERROR(stream_->Synchronize());
  row_idx_.resize(num_selections);
  stream_->CopyToHost(row_idx_.data(), rows.row_idx, num_selections * sizeof(int32_t));
  TF_RETURN_IF_ERROR(stream_->Synchronize());
  num_recv_rows_ = row_idx_.empty() ? 0 : 1 + *std::max_element(row_idx_.begin(), row_idx_.end());
  return absl::OkStatus();
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
  const ExpertRows local = {.rows = local_rows_.data(),
                            .dtype = problem_.point().given_dtype(),
                            .hidden = problem_.point().hidden,
                            .row_stride = problem_.point().hidden,
                            .row_idx = local_idx_.as<int32_t>(),
                            .max_selections = num_selections};
  LocalReadSeconds seconds;
  if (device_.kind() != DeviceKind::kCpu) {  // which ranks do not share
    TF_RETURN_IF_ERROR(Barrier(transport_, kMeet));
    TF_RETURN_IF_ERROR(timer_->Mark(*stream_, kReadBegins));
    ReadRows(local);
    TF_RETURN_IF_ERROR(timer_->Mark(*stream_, kReadEnds));
    TF_RETURN_IF_ERROR(stream_->Synchronize());
    TF_ASSIGN_OR_RETURN(seconds.read, timer_->Seconds(kReadBegins, kReadEnds));
    return seconds;
  }
  TF_RETURN_IF_ERROR(Barrier(transport_, kMeet));
  double start = MonotonicSeconds();
  TF_RETURN_IF_ERROR(Barrier(transport_, kMeet));
  seconds.meet = MonotonicSeconds() - start;
  TF_RETURN_IF_ERROR(Barrier(transport_, kMeet));
  start = MonotonicSeconds();
  TF_RETURN_IF_ERROR(Barrier(transport_, kMeet));
  ReadRows(local);
  TF_RETURN_IF_ERROR(stream_->Synchronize());
  seconds.read = MonotonicSeconds() - start;
  return seconds;
}

}  // namespace tokenferry

#include "bench/alltoall/baselines.h"

#include <mpi.h>

#include "bench/alltoall/baseline_plan.h"
#include "bench/alltoall/bench_ops.h"
#include "bench/alltoall/device_baselines.h"
#include "bench/alltoall/round_trip.h"
#include "bench/measure/call_sites.h"
#include "comm/ops/exchange_ops.h"
#include "comm/transport/collectives.h"
#include "comm/transport/mpi_status.h"
#include "core/check.h"

namespace tokenferry {
namespace {

// Memory and steps that the kinds share. Host memory of the device, since MPI moves it.
class BaselineBase : public Baseline {
 public:
  BaselineBase(Transport& transport, Device& device, BenchProblem& problem)
      : transport_(transport),
        device_(device),
        problem_(problem),
        dtype_(problem.point().given_dtype()),
        row_bytes_(problem.point().hidden * DTypeBytes(dtype_)) {}

  absl::Status Verify() override { return absl::OkStatus(); }

 protected:
  absl::Status Reserve(Buffer& buffer, int64_t num_bytes) {
    if (static_cast<size_t>(num_bytes) <= buffer.num_bytes()) return absl::OkStatus();
    buffer = Buffer();
    TF_ASSIGN_OR_RETURN(buffer, device_.Allocate(num_bytes, MemoryKind::kHost, "bench: baseline"));
    stream_->Fill(buffer.data(), 0, num_bytes);  // its pages are there before anything is timed
    return stream_->Synchronize();
  }
  absl::Status Start() {
    if (stream_ != nullptr) return absl::OkStatus();
    TF_ASSIGN_OR_RETURN(stream_, device_.CreateStream());
    return absl::OkStatus();
  }
  absl::Status Lap(double* phase) {
    TF_RETURN_IF_ERROR(stream_->Synchronize());
    const double now = MonotonicSeconds();
    *phase += now - start_;
    start_ = now;
    return absl::OkStatus();
  }
  absl::Status Meet() {
    TF_RETURN_IF_ERROR(stream_->Synchronize());
    TF_RETURN_IF_ERROR(Barrier(transport_, kMeet));
    start_ = MonotonicSeconds();
    return absl::OkStatus();
  }

  Transport& transport_;
  Device& device_;
  BenchProblem& problem_;
  const DType dtype_;
  const int64_t row_bytes_;
  std::unique_ptr<Stream> stream_;
  double start_ = 0;
};

class AllToAllVBaseline : public BaselineBase {
 public:
  using BaselineBase::BaselineBase;
  absl::StatusOr<BaselineSeconds> Run() override {
    TF_RETURN_IF_ERROR(Start());
    TF_ASSIGN_OR_RETURN(const BaselinePlan plan, MakeBaselinePlan(problem_));
    const MpiBlocks send(plan.send.row_offsets, row_bytes_), recv(plan.recv.row_offsets, row_bytes_);
    TF_RETURN_IF_ERROR(Reserve(home_, send.num_bytes));
    TF_RETURN_IF_ERROR(Reserve(away_, recv.num_bytes));
    BaselineSeconds seconds;
    TF_RETURN_IF_ERROR(Meet());
    TF_RETURN_IF_ERROR(MpiAllToAll(home_.data(), send, away_.data(), recv));
    TF_RETURN_IF_ERROR(Lap(&seconds.forward));
    TF_RETURN_IF_ERROR(MpiAllToAll(away_.data(), recv, home_.data(), send));
    TF_RETURN_IF_ERROR(Lap(&seconds.back));
    return seconds;
  }

 private:
  Buffer home_, away_;
};

class PackedBaseline : public BaselineBase {
 public:
  PackedBaseline(Transport& transport, Device& device, BenchProblem& problem, BaselineKind kind)
      : BaselineBase(transport, device, problem), per_rank_(kind == BaselineKind::kPerRank) {}

  absl::StatusOr<BaselineSeconds> Run() override {
    TF_RETURN_IF_ERROR(Start());
    TF_RETURN_IF_ERROR(Reserve(out_, problem_.num_tokens() * row_bytes_));
    BaselineSeconds seconds;
    TF_RETURN_IF_ERROR(Meet());
    TF_ASSIGN_OR_RETURN(plan_, MakeBaselinePlan(problem_));
    MakeLists();
    TF_RETURN_IF_ERROR(Lap(&seconds.plan));
    TF_RETURN_IF_ERROR(ReserveRows());
    TF_RETURN_IF_ERROR(Meet());
    TF_RETURN_IF_ERROR(ToExperts(&seconds));
    TF_RETURN_IF_ERROR(Meet());
    TF_RETURN_IF_ERROR(RunExperts());
    TF_RETURN_IF_ERROR(Meet());
    TF_RETURN_IF_ERROR(ToHome(&seconds));
    return seconds;
  }

  absl::Status Verify() override {
    TF_RETURN_IF_ERROR(Run().status());
    const int64_t n = problem_.num_tokens() * problem_.point().hidden;
    std::vector<float> results(n);
    for (int64_t i = 0; i < n; ++i) {  // host memory, synchronized
      results[i] = dtype_ == DType::kF32 ? out_.as<float>()[i] : ToFloat(out_.as<BF16>()[i]);
    }
    return AgreeOnStatus(transport_, {.phase = "bench: verify baseline"},
                         problem_.CheckRows(results, BenchProblem::Match::kRounded));
  }

 private:
  // What is sent in which order, and what is summed from what.
  void MakeLists() {
    const SendPlan& send = plan_.send;
    const RecvPlan& recv = plan_.recv;
    const auto num_selections = static_cast<int64_t>(send.selections.size());
    message_token_ = send.row_token;
    if (!per_rank_) {
      message_token_.resize(num_selections);
      for (int r = 0; r < problem_.placement().num_ranks(); ++r) {
        for (int64_t i = send.selection_offsets[r]; i < send.selection_offsets[r + 1]; ++i) {
          message_token_[i] = send.row_token[send.row_offsets[r] + send.selections[i].row_idx];
        }
      }
    }
    send_blocks_ = MpiBlocks(per_rank_ ? send.row_offsets : send.selection_offsets, row_bytes_);
    recv_blocks_ = MpiBlocks(per_rank_ ? recv.row_offsets : recv.selection_offsets, row_bytes_);
    // Where the row of each selection at the expert has arrived.
    arrived_idx_ = recv.row_idx;
    if (!per_rank_) {
      for (size_t a = 0; a < recv.return_selection.size(); ++a) {
        arrived_idx_[recv.return_selection[a]] = static_cast<int32_t>(a);
      }
    } else {
      std::vector<int32_t> row_of_arrived(recv.return_selection.size());
      for (size_t a = 0; a < row_of_arrived.size(); ++a) row_of_arrived[a] = recv.row_idx[recv.return_selection[a]];
      expert_sums_ = GroupItems(row_of_arrived, recv.row_offsets.back());
      for (size_t j = 0; j < expert_sums_.idx.size(); ++j) {
        const int32_t a = expert_sums_.idx[j];
        expert_sums_.weight[j] = plan_.recv_weight[a];
        expert_sums_.idx[j] = recv.return_selection[a];
      }
    }
    home_sums_ = GroupItems(message_token_, send.num_tokens);
    if (per_rank_) return;
    for (int64_t j = 0; j < num_selections; ++j) home_sums_.weight[j] = plan_.send_weight[home_sums_.idx[j]];
  }

  absl::Status ReserveRows() {
    TF_RETURN_IF_ERROR(Reserve(message_, send_blocks_.num_bytes));
    TF_RETURN_IF_ERROR(Reserve(arrived_, recv_blocks_.num_bytes));
    TF_RETURN_IF_ERROR(Reserve(grouped_, plan_.recv.selection_offsets.back() * row_bytes_));
    return Reserve(checksum_, plan_.recv.selection_offsets.back() * sizeof(uint64_t));
  }

  absl::Status ToExperts(BaselineSeconds* seconds) {
    stream_->Launch(kMoveRows, {.src = problem_.hidden().data,
                                .src_idx = message_token_.data(),
                                .dst = message_.data(),
                                .num_rows = static_cast<int64_t>(message_token_.size()),
                                .row_bytes = row_bytes_});
    TF_RETURN_IF_ERROR(Lap(&seconds->pack));
    TF_RETURN_IF_ERROR(MpiAllToAll(message_.data(), send_blocks_, arrived_.data(), recv_blocks_));
    TF_RETURN_IF_ERROR(Lap(&seconds->forward));
    const auto num_selections = static_cast<int64_t>(arrived_idx_.size());
    stream_->Launch(kMoveRows, {.src = arrived_.data(),
                                .src_idx = arrived_idx_.data(),
                                .dst = grouped_.data(),
                                .num_rows = num_selections,
                                .row_bytes = row_bytes_});
    TF_RETURN_IF_ERROR(Lap(&seconds->unpack));
    stream_->Launch(kReadRows, {.rows = grouped_.data(),
                                .row_stride = row_bytes_,
                                .row_bytes = row_bytes_,
                                .num_selections = num_selections,
                                .checksum = checksum_.as<uint64_t>()});
    return Lap(&seconds->read);
  }

  // In place; not timed.
  absl::Status RunExperts() {
    const std::vector<float> factors = problem_.SlotFactors();
    stream_->Launch(kTransformRows, {.rows = grouped_.data(),
                                     .dtype = dtype_,
                                     .row_stride = problem_.point().hidden,
                                     .slot_offsets = plan_.recv.slot_offsets.data(),
                                     .slot_factor = factors.data(),
                                     .num_slots = static_cast<int64_t>(factors.size()),
                                     .max_selections = plan_.recv.selection_offsets.back(),
                                     .hidden = problem_.point().hidden,
                                     .out = grouped_.data(),
                                     .out_stride = problem_.point().hidden,
                                     .out_dtype = dtype_});
    return stream_->Synchronize();
  }

  absl::Status ToHome(BaselineSeconds* seconds) {
    if (per_rank_) {
      Sum(expert_sums_, grouped_, plan_.recv.row_offsets.back(), arrived_);
    } else {
      stream_->Launch(kMoveRows, {.src = grouped_.data(),
                                  .src_idx = plan_.recv.return_selection.data(),
                                  .dst = arrived_.data(),
                                  .num_rows = static_cast<int64_t>(arrived_idx_.size()),
                                  .row_bytes = row_bytes_});
    }
    TF_RETURN_IF_ERROR(Lap(&seconds->reduce));
    TF_RETURN_IF_ERROR(MpiAllToAll(arrived_.data(), recv_blocks_, message_.data(), send_blocks_));
    TF_RETURN_IF_ERROR(Lap(&seconds->back));
    Sum(home_sums_, message_, problem_.num_tokens(), out_);
    return Lap(&seconds->sum);
  }

  void Sum(const SumList& list, const Buffer& rows, int64_t num_out, Buffer& out) {
    const int64_t hidden = problem_.point().hidden;
    stream_->Launch(kCombineRows, {.rows = ConstFloatMatrix(rows.data(), dtype_, 0, hidden),
                                   .offsets = list.offsets.data(),
                                   .selection = list.idx.data(),
                                   .k = list.position.data(),
                                   // Weights side by side: a matrix whose rows all begin at the same place.
                                   .weight = {list.weight.data(), num_out, 1, 0},
                                   .out = FloatMatrix(out.data(), dtype_, num_out, hidden)});
  }

  const bool per_rank_;
  BaselinePlan plan_;
  std::vector<int32_t> message_token_, arrived_idx_;
  SumList expert_sums_, home_sums_;
  MpiBlocks send_blocks_, recv_blocks_;
  Buffer out_, message_, arrived_, grouped_, checksum_;
};

// Why MPI's own all-to-all cannot be used, if so.
absl::Status CheckMpi(Transport& transport, const BenchProblem& problem) {
  int initialized = 0, num_ranks = 0;
  MPI_Initialized(&initialized);
  if (initialized) MPI_Comm_size(MPI_COMM_WORLD, &num_ranks);
  if (num_ranks != transport.num_ranks()) return absl::FailedPreconditionError("needs the mpi transport");
  const BenchPoint& p = problem.point();
  const double sent_most = static_cast<double>(p.tokens) * p.top_k * p.hidden * DTypeBytes(p.given_dtype());
  const absl::Status too_large =
      absl::FailedPreconditionError("a rank's bytes exceed the 32-bit counts of MPI_Alltoallv");
  if (sent_most >= 0x1p31) return too_large;
  if (sent_most * num_ranks >= 0x1p31) {
    // Only a bound: one rank might get everything. The real sizes say more.
    SendPlan plan;
    TF_RETURN_IF_ERROR(PlanBuilder().BuildSend(problem.host_routing(), problem.placement(), plan));
    std::vector<int64_t> sent(num_ranks), received(num_ranks);
    for (int r = 0; r < num_ranks; ++r) sent[r] = plan.selection_offsets[r + 1] - plan.selection_offsets[r];
    TF_RETURN_IF_MPI_ERROR(
        MPI_Allreduce(sent.data(), received.data(), num_ranks, MPI_INT64_T, MPI_SUM, MPI_COMM_WORLD));
    for (const int64_t rows : received) {
      if (static_cast<double>(rows) * p.hidden * DTypeBytes(p.given_dtype()) < 0x1p31) continue;
      return too_large;
    }
  }
  return absl::OkStatus();
}

}  // namespace

const char* BaselineName(BaselineKind kind) {
  switch (kind) {
    case BaselineKind::kMemcpy:
      return "memcpy";
    case BaselineKind::kAllToAllV:
      return "mpi_alltoallv";
    case BaselineKind::kPerRank:
      return "mpi_row_per_rank";
    case BaselineKind::kPerExpert:
      return "mpi_row_per_expert";
    case BaselineKind::kNcclSendRecv:
      return "nccl_sendrecv";
    case BaselineKind::kNcclPadded:
      return "nccl_padded";
  }
  return "?";
}

bool IsWhole(BaselineKind kind) { return kind == BaselineKind::kPerRank || kind == BaselineKind::kPerExpert; }

absl::StatusOr<std::unique_ptr<Baseline>> CreateBaseline(BaselineKind kind, Transport& transport, Device& device,
                                                         BenchProblem& problem) {
  if (kind != BaselineKind::kAllToAllV && !IsWhole(kind)) {
    return CreateDeviceBaseline(kind, transport, device, problem);
  }
  if (device.kind() != DeviceKind::kCpu) {
    return absl::FailedPreconditionError(
        absl::StrCat("it is of MPI and the host's memory, and rows lie on ", device.ToString()));
  }
  TF_RETURN_IF_ERROR(CheckMpi(transport, problem));
  if (kind == BaselineKind::kAllToAllV) return std::make_unique<AllToAllVBaseline>(transport, device, problem);
  return std::make_unique<PackedBaseline>(transport, device, problem, kind);
}

}  // namespace tokenferry

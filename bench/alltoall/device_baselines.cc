#include "bench/alltoall/device_baselines.h"

#include <algorithm>

#include "bench/alltoall/bench_ops.h"
#include "bench/measure/call_sites.h"
#include "bench/measure/statistics.h"
#include "bench/measure/stream_timer.h"
#include "comm/transport/collectives.h"

namespace tokenferry {
namespace {

// Moves bytes forth and back; there is no result to check.
class DeviceBaseline : public Baseline {
 public:
  DeviceBaseline(Transport& transport, Device& device, BenchProblem& problem)
      : transport_(transport),
        device_(device),
        row_bytes_(problem.point().hidden * DTypeBytes(problem.point().given_dtype())) {}

  // Collective.
  absl::Status Start(const BenchProblem& problem) {
    SendPlan plan;
    TF_RETURN_IF_ERROR(PlanBuilder().BuildSend(problem.host_routing(), problem.placement(), plan));
    TF_RETURN_IF_ERROR(Plan(plan));
    TF_ASSIGN_OR_RETURN(stream_, device_.CreateStream());
    TF_ASSIGN_OR_RETURN(timer_, StreamTimer::Create(device_, 3));
    TF_RETURN_IF_ERROR(Allocate(home_, home_rows_));
    TF_RETURN_IF_ERROR(Allocate(away_, away_rows_));
    return stream_->Synchronize();
  }

  absl::StatusOr<BaselineSeconds> Run() override {
    TF_RETURN_IF_ERROR(Barrier(transport_, kMeet));
    TF_RETURN_IF_ERROR(timer_->Mark(*stream_, 0));
    TF_RETURN_IF_ERROR(Forward());
    TF_RETURN_IF_ERROR(timer_->Mark(*stream_, 1));
    TF_RETURN_IF_ERROR(Back());
    TF_RETURN_IF_ERROR(timer_->Mark(*stream_, 2));
    TF_RETURN_IF_ERROR(stream_->Synchronize());
    BaselineSeconds seconds;
    TF_ASSIGN_OR_RETURN(seconds.forward, timer_->Seconds(0, 1));
    TF_ASSIGN_OR_RETURN(seconds.back, timer_->Seconds(1, 2));
    return seconds;
  }
  absl::Status Verify() override { return absl::OkStatus(); }

 protected:
  // Sets home_rows_ and away_rows_.
  virtual absl::Status Plan(const SendPlan& plan) = 0;
  virtual absl::Status Forward() = 0;
  virtual absl::Status Back() = 0;

  Transport& transport_;
  Device& device_;
  const int64_t row_bytes_;
  std::unique_ptr<Stream> stream_;
  std::unique_ptr<StreamTimer> timer_;
  Buffer home_, away_;
  int64_t home_rows_ = 0, away_rows_ = 0;

 private:
  absl::Status Allocate(Buffer& buffer, int64_t num_rows) {
    TF_ASSIGN_OR_RETURN(buffer, device_.Allocate(num_rows * row_bytes_, MemoryKind::kDevice, "bench: baseline"));
    stream_->Fill(buffer.data(), 0, buffer.num_bytes());  // its pages are there before anything is timed
    return absl::OkStatus();
  }
};

// Copies what this rank dispatches.
class MemcpyBaseline : public DeviceBaseline {
 public:
  using DeviceBaseline::DeviceBaseline;

 private:
  absl::Status Plan(const SendPlan& plan) override {
    home_rows_ = away_rows_ = plan.row_offsets.back();
    return absl::OkStatus();
  }
  absl::Status Forward() override { return Copy(home_, away_); }
  absl::Status Back() override { return Copy(away_, home_); }
  absl::Status Copy(const Buffer& from, const Buffer& to) {
    stream_->Launch(kMoveRows, {.src = from.data(), .dst = to.data(), .num_rows = home_rows_, .row_bytes = row_bytes_});
    return absl::OkStatus();
  }
};

enum class Blocks : uint8_t {
  kExact,   // a row per (token, rank)
  kPadded,  // the same, and every block as long as the longest of all ranks: what an all-to-all of equal blocks sends
};

// One group of ncclSend and ncclRecv each way, which is what a transfer of the transport is.
class NcclBaseline : public DeviceBaseline {
 public:
  NcclBaseline(Transport& transport, Device& device, BenchProblem& problem, Blocks blocks)
      : DeviceBaseline(transport, device, problem), blocks_(blocks) {}

 private:
  absl::Status Plan(const SendPlan& plan) override {
    const int num_ranks = transport_.num_ranks(), me = transport_.rank().value;
    std::vector<int64_t> rows(num_ranks);
    for (int r = 0; r < num_ranks; ++r) rows[r] = plan.row_offsets[r + 1] - plan.row_offsets[r];
    TF_ASSIGN_OR_RETURN(const auto all, GatherNumbers(transport_, rows));  // [source][destination]
    int64_t longest = 0;
    for (const auto& theirs : all) longest = std::max(longest, *std::max_element(theirs.begin(), theirs.end()));
    home_offsets_ = away_offsets_ = {0};
    for (int r = 0; r < num_ranks; ++r) {
      const int64_t sent = blocks_ == Blocks::kPadded ? longest : all[me][r];
      const int64_t received = blocks_ == Blocks::kPadded ? longest : all[r][me];
      home_offsets_.push_back(home_offsets_.back() + sent * row_bytes_);
      away_offsets_.push_back(away_offsets_.back() + received * row_bytes_);
    }
    home_rows_ = home_offsets_.back() / row_bytes_;
    away_rows_ = away_offsets_.back() / row_bytes_;
    return absl::OkStatus();
  }
  absl::Status Forward() override { return Move("forward", home_, home_offsets_, away_, away_offsets_); }
  absl::Status Back() override { return Move("back", away_, away_offsets_, home_, home_offsets_); }
  absl::Status Move(const char* phase, const Buffer& from, const std::vector<int64_t>& from_offsets, const Buffer& to,
                    const std::vector<int64_t>& to_offsets) {
    return transport_.AllToAllV(*stream_, {.phase = phase},
                                {.send = from.data(),
                                 .send_offsets = from_offsets,
                                 .recv = to.data(),
                                 .recv_offsets = to_offsets,
                                 .row_bytes = row_bytes_});
  }

  const Blocks blocks_;
  std::vector<int64_t> home_offsets_, away_offsets_;  // bytes
};

}  // namespace

absl::StatusOr<std::unique_ptr<Baseline>> CreateDeviceBaseline(BaselineKind kind, Transport& transport, Device& device,
                                                               BenchProblem& problem) {
  std::unique_ptr<DeviceBaseline> baseline;
  if (kind == BaselineKind::kMemcpy) {
    baseline = std::make_unique<MemcpyBaseline>(transport, device, problem);
  } else {
    if (transport.memory_kind() != MemoryKind::kDevice) return absl::FailedPreconditionError("needs --transport nccl");
    const Blocks blocks = kind == BaselineKind::kNcclPadded ? Blocks::kPadded : Blocks::kExact;
    baseline = std::make_unique<NcclBaseline>(transport, device, problem, blocks);
  }
  TF_RETURN_IF_ERROR(baseline->Start(problem));
  return baseline;
}

}  // namespace tokenferry

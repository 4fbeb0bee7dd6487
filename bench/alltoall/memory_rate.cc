#include "bench/alltoall/memory_rate.h"

#include <algorithm>
#include <cmath>

#include "bench/alltoall/round_trip.h"
#include "bench/measure/stream_timer.h"
#include "comm/transport/collectives.h"

namespace tokenferry {
namespace {

constexpr CallSite kMeasureMemory{.phase = "bench: memory rate"};

int64_t Nanoseconds(double seconds) { return std::llround(seconds * 1e9); }

int64_t NumRanksOfHost(const BenchContext& context) {
  const int host = context.topology.host_idx_per_rank[context.transport.rank().value];
  return static_cast<int64_t>(context.topology.hosts[host].ranks.size());
}

// Of a host's ranks the first start and the last end count, on their common clock: where they share cores they take
// turns.
class CpuMemoryRate : public GroupMemoryRate {
 public:
  CpuMemoryRate(const BenchContext& context, int64_t num_bytes)
      : context_(context), pool_(context.num_threads), read_(pool_, context.isa, num_bytes / NumRanksOfHost(context)) {}

  absl::StatusOr<double> Run() override {
    TF_RETURN_IF_ERROR(Barrier(context_.transport, kMeasureMemory));
    const double start = MonotonicSeconds();
    read_.Run();
    const double end = MonotonicSeconds();
    TF_ASSIGN_OR_RETURN(const auto all,
                        GatherNumbers(context_.transport, {Nanoseconds(start), Nanoseconds(end), read_.num_bytes()}));
    double rate = 0;
    for (const Topology::Host& host : context_.topology.hosts) {
      int64_t first = all[host.ranks[0].value][0], last = 0, num_bytes = 0;
      for (const RankId r : host.ranks) {
        first = std::min(first, all[r.value][0]);
        last = std::max(last, all[r.value][1]);
        num_bytes += all[r.value][2];
      }
      rate += 1e9 * static_cast<double>(num_bytes) / static_cast<double>(last - first);
    }
    return rate;
  }

 private:
  const BenchContext& context_;
  ThreadPool pool_;
  MemoryRead read_;
};

class GpuMemoryRate : public GroupMemoryRate {
 public:
  explicit GpuMemoryRate(const BenchContext& context) : context_(context) {}

  absl::Status Start(int64_t num_bytes) {  // of the copy
    for (Buffer* buffer : {&from_, &to_}) {
      TF_ASSIGN_OR_RETURN(*buffer, context_.device.Allocate(num_bytes, MemoryKind::kDevice, "bench: memory rate"));
    }
    TF_ASSIGN_OR_RETURN(stream_, context_.device.CreateStream());
    TF_ASSIGN_OR_RETURN(timer_, StreamTimer::Create(context_.device, 2));
    stream_->Fill(from_.data(), 1, num_bytes);
    return stream_->Synchronize();
  }

  absl::StatusOr<double> Run() override {
    TF_RETURN_IF_ERROR(Barrier(context_.transport, kMeasureMemory));
    TF_RETURN_IF_ERROR(timer_->Mark(*stream_, 0));
    stream_->CopyOnDevice(to_.data(), from_.data(), from_.num_bytes());
    TF_RETURN_IF_ERROR(timer_->Mark(*stream_, 1));
    TF_RETURN_IF_ERROR(stream_->Synchronize());
    TF_ASSIGN_OR_RETURN(const double seconds, timer_->Seconds(0, 1));
    TF_ASSIGN_OR_RETURN(const auto all, GatherNumbers(context_.transport, {Nanoseconds(seconds)}));
    double rate = 0;
    for (const auto& theirs : all) {
      rate += 2e9 * static_cast<double>(from_.num_bytes()) / static_cast<double>(std::max<int64_t>(1, theirs[0]));
    }
    return rate;
  }

 private:
  const BenchContext& context_;
  std::unique_ptr<Stream> stream_;
  std::unique_ptr<StreamTimer> timer_;
  Buffer from_, to_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<GroupMemoryRate>> GroupMemoryRate::Create(const BenchContext& context,
                                                                         int64_t num_bytes) {
  if (context.device.kind() == DeviceKind::kCpu) return std::make_unique<CpuMemoryRate>(context, num_bytes);
  auto rate = std::make_unique<GpuMemoryRate>(context);
  TF_RETURN_IF_ERROR(rate->Start(num_bytes / 2));
  return rate;
}

}  // namespace tokenferry

#include "comm/transport/faulty_transport.h"

#include <random>

#include "absl/time/clock.h"

namespace tokenferry {
namespace {

class FaultyTransport : public Transport {
 public:
  FaultyTransport(std::unique_ptr<Transport> inner, const FaultOptions& options)
      : inner_(std::move(inner)),
        options_(options),
        random_(options.skew_seed + static_cast<uint64_t>(inner_->rank().value)) {}
  RankId rank() const override { return inner_->rank(); }
  int num_ranks() const override { return inner_->num_ranks(); }
  std::string ToString() const override { return absl::StrCat("faulty ", inner_->ToString()); }
  std::string host(RankId rank) const override { return inner_->host(rank); }
  MemoryKind memory_kind() const override { return inner_->memory_kind(); }
  void Abort(const absl::Status& why) override { inner_->Abort(why); }
  absl::Span<const double> wait_seconds_per_rank() const override { return inner_->wait_seconds_per_rank(); }
  absl::StatusOr<std::shared_ptr<PeerMemory>> AllocatePeerMemory(const CallSite& site, int64_t num_bytes) override {
    return inner_->AllocatePeerMemory(site, num_bytes);
  }
  absl::StatusOr<std::shared_ptr<PeerMemory>> ReservePeerMemory(const CallSite& site, int64_t num_bytes) override {
    return inner_->ReservePeerMemory(site, num_bytes);
  }
  absl::Status EnterPhase(const CallSite& site) override { return BeforeCall(site); }
  void Progress() override { inner_->Progress(); }
  absl::Duration timeout() const override { return inner_->timeout(); }
  absl::Status PeerStatus(RankId rank) const override { return inner_->PeerStatus(rank); }
  std::string PeerState(RankId rank) const override { return inner_->PeerState(rank); }
  void AddWaitSeconds(RankId rank, double seconds) override { inner_->AddWaitSeconds(rank, seconds); }

  absl::StatusOr<TransferHandle> HostStart(const CallSite& site, const AllToAllVArgs& args) override {
    TF_RETURN_IF_ERROR(BeforeCall(site));
    return inner_->HostStart(site, args);
  }
  absl::Status HostFinish(TransferHandle handle) override { return inner_->HostFinish(handle); }
  absl::StatusOr<TransferHandle> Start(Stream& stream, const CallSite& site, const AllToAllVArgs& args) override {
    TF_RETURN_IF_ERROR(BeforeCall(site));
    return inner_->Start(stream, site, args);
  }
  absl::Status Finish(Stream& stream, TransferHandle handle) override { return inner_->Finish(stream, handle); }

 private:
  absl::Status BeforeCall(const CallSite& site) {
    const int64_t call = num_calls_++;
    if (call >= options_.drop_from_call) {
      absl::SleepFor(options_.drop_wait);
      return absl::UnavailableError(absl::StrCat(tokenferry::ToString(site), ": rank ", rank().value,
                                                 " has been dropped at call ", options_.drop_from_call, " by a fault"));
    }
    if (options_.before_call) options_.before_call(site);
    if (call == options_.delay_call || options_.delay_phase == site.phase) absl::SleepFor(options_.delay);
    if (options_.max_skew > absl::ZeroDuration()) {
      absl::SleepFor(options_.max_skew * std::uniform_real_distribution<double>(0, 1)(random_));
    }
    return absl::OkStatus();
  }

  std::unique_ptr<Transport> inner_;
  const FaultOptions options_;
  std::mt19937_64 random_;
  int64_t num_calls_ = 0;
};

}  // namespace

std::unique_ptr<Transport> CreateFaultyTransport(std::unique_ptr<Transport> inner, const FaultOptions& options) {
  return std::make_unique<FaultyTransport>(std::move(inner), options);
}

}  // namespace tokenferry

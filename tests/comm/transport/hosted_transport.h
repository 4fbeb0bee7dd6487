// Ranks of one process that say they are on several hosts.
#pragma once

#include <memory>
#include <string>

#include "comm/transport/transport.h"

namespace tokenferry {

class HostedTransport : public Transport {
 public:
  // One letter per rank, its host's name. `transport` must outlive it.
  HostedTransport(Transport& transport, std::string hosts) : transport_(transport), hosts_(std::move(hosts)) {}

  RankId rank() const override { return transport_.rank(); }
  int num_ranks() const override { return transport_.num_ranks(); }
  std::string ToString() const override { return absl::StrCat(transport_.ToString(), " on hosts ", hosts_); }
  std::string host(RankId rank) const override { return hosts_.substr(rank.value, 1); }
  absl::StatusOr<TransferHandle> HostStart(const CallSite& site, const AllToAllVArgs& args) override {
    return transport_.HostStart(site, args);
  }
  absl::Status HostFinish(TransferHandle handle) override { return transport_.HostFinish(handle); }
  void Progress() override { transport_.Progress(); }
  absl::StatusOr<TransferHandle> Start(Stream& stream, const CallSite& site, const AllToAllVArgs& args) override {
    return transport_.Start(stream, site, args);
  }
  absl::Status Finish(Stream& stream, TransferHandle handle) override { return transport_.Finish(stream, handle); }
  MemoryKind memory_kind() const override { return transport_.memory_kind(); }
  void Abort(const absl::Status& why) override { transport_.Abort(why); }
  absl::Span<const double> wait_seconds_per_rank() const override { return transport_.wait_seconds_per_rank(); }
  absl::StatusOr<std::shared_ptr<PeerMemory>> AllocatePeerMemory(const CallSite& site, int64_t bytes) override {
    return transport_.AllocatePeerMemory(site, bytes);
  }
  absl::StatusOr<std::shared_ptr<PeerMemory>> ReservePeerMemory(const CallSite& site, int64_t bytes) override {
    return transport_.ReservePeerMemory(site, bytes);
  }
  absl::Status EnterPhase(const CallSite& site) override { return transport_.EnterPhase(site); }
  absl::Duration timeout() const override { return transport_.timeout(); }
  absl::Status PeerStatus(RankId rank) const override { return transport_.PeerStatus(rank); }
  std::string PeerState(RankId rank) const override { return transport_.PeerState(rank); }
  void AddWaitSeconds(RankId rank, double seconds) override { transport_.AddWaitSeconds(rank, seconds); }

 private:
  Transport& transport_;
  const std::string hosts_;
};

}  // namespace tokenferry

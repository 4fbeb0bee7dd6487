// Base of decorators: every call goes to the transport inside. A decorator overrides what it changes; a call that is
// new in Transport does not compile until it is forwarded here, so that no decorator can lose it.
#pragma once

#include "comm/transport/transport.h"

namespace tokenferry {

class ForwardingTransport : public Transport {
 public:
  RankId rank() const override { return inner_.rank(); }
  int num_ranks() const override { return inner_.num_ranks(); }
  std::string ToString() const override { return inner_.ToString(); }
  std::string host(RankId rank) const override { return inner_.host(rank); }
  MemoryKind memory_kind() const override { return inner_.memory_kind(); }
  absl::Duration timeout() const override { return inner_.timeout(); }
  absl::StatusOr<TransferHandle> HostBegin(const CallSite& site, const AllToAllVArgs& args) override {
    return inner_.HostBegin(site, args);
  }
  absl::Status HostFinish(TransferHandle handle) override { return inner_.HostFinish(handle); }
  absl::StatusOr<TransferHandle> Begin(Stream& stream, const CallSite& site, const AllToAllVArgs& args) override {
    return inner_.Begin(stream, site, args);
  }
  absl::Status Finish(Stream& stream, TransferHandle handle) override { return inner_.Finish(stream, handle); }
  void Progress() override { inner_.Progress(); }
  absl::Status EnterPhase(const CallSite& site) override { return inner_.EnterPhase(site); }
  void Abort(const absl::Status& why) override { inner_.Abort(why); }
  absl::Span<const double> wait_seconds_per_rank() const override { return inner_.wait_seconds_per_rank(); }
  PeerGroup& peers() override { return inner_.peers(); }

 protected:
  // `inner` must outlive it.
  explicit ForwardingTransport(Transport& inner) : inner_(inner) {}
  Transport& inner() { return inner_; }

 private:
  Transport& inner_;
};

}  // namespace tokenferry

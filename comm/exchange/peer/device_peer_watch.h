// The host's part of waits on the device: it looks whether one has given up, and makes it give up when the job is asked
// to stop or another rank has ended. The error is that of a wait on the host.
#pragma once

#include <optional>

#include "comm/exchange/peer/peer_ops.h"
#include "comm/peer/peer_group.h"
#include "core/device/device.h"
#include "core/host/clock.h"

namespace tokenferry {

class DevicePeerWatch : public StreamWatch {
 public:
  // `peers` must outlive it. Allocate before any other call.
  explicit DevicePeerWatch(PeerGroup& peers) : peers_(peers) {}

  absl::Status Allocate(Device& device);
  absl::Status Check() override;

  // What operations write: kHost memory.
  PeerWaitReport* report() const { return report_.as<PeerWaitReport>(); }
  int64_t* seen() const { return seen_.as<int64_t>(); }
  PlanFault* fault() const { return fault_.as<PlanFault>(); }

 private:
  absl::Status GaveUp() const;
  void LookAround();

  PeerGroup& peers_;
  Buffer report_, seen_, fault_;
  Deadline next_look_ = Deadline::After(absl::ZeroDuration());
  std::optional<Deadline> stop_grace_;  // from the look that saw the request
  absl::Status cause_;                  // why waits were told to give up
  absl::Status error_;
};

}  // namespace tokenferry

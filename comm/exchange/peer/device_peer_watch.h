// The host's part of waits on the device: it looks whether one has given up, and makes it give up when the job is asked
// to stop or another rank has ended. The error is that of a wait on the host.
#pragma once

#include <optional>

#include "comm/exchange/peer/peer_ops.h"
#include "comm/peer/peer_group.h"
#include "core/device/device.h"
#include "core/host/clock.h"

namespace tokenferry {

class DevicePeerWatch {
 public:
  // `peers` must outlive it. Allocate before any other call.
  explicit DevicePeerWatch(PeerGroup& peers) : peers_(peers) {}

  absl::Status Allocate(Device& device);
  // Stream::Watch: of this stream's waits, until either of the two ends.
  void Watch(Stream& stream) { stream.Watch(on_stream_); }

  // What operations write: kHost memory.
  PeerWaitReport* report() const { return report_.as<PeerWaitReport>(); }
  int64_t* seen() const { return seen_.as<int64_t>(); }
  PlanFault* fault() const { return fault_.as<PlanFault>(); }

 private:
  class OnStream : public StreamWatch {
   public:
    explicit OnStream(DevicePeerWatch& watch) : watch_(watch) {}
    absl::Status Check() override { return watch_.Check(); }

   private:
    DevicePeerWatch& watch_;
  };

  absl::Status Check();
  absl::Status GaveUp() const;
  void LookAround();

  PeerGroup& peers_;
  Buffer report_, seen_, fault_;
  Deadline next_look_ = Deadline::After(absl::ZeroDuration());
  std::optional<Deadline> stop_grace_;  // from the look that saw the request
  absl::Status cause_;                  // why waits were told to give up
  absl::Status error_;
  OnStream on_stream_{*this};  // the last, so the first to end: freeing the buffers above makes streams ask
};

}  // namespace tokenferry

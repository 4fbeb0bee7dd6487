#include "comm/transport/nccl/nccl_transport.h"

#include <optional>
#include <vector>

#include "comm/transport/collectives.h"
#include "comm/transport/forwarding_transport.h"
#include "comm/transport/nccl/nccl_communicator.h"
#include "comm/transport/nccl/transfer_log.h"
#include "comm/wait/wait.h"
#include "core/log.h"

namespace tokenferry {
namespace {

constexpr CallSite kStart{"start: nccl"};
constexpr absl::Duration kLookPeriod = absl::Milliseconds(20);  // at what NCCL says, and at processes

class NcclTransport : public ForwardingTransport, private StreamWatch {
 public:
  NcclTransport(Transport& control, Device& device)
      : ForwardingTransport(control), device_(device), log_(control), num_times_gone_(control.num_ranks(), 0) {}

  ~NcclTransport() override {
    if (error_.ok()) {
      const absl::Status closed = Keep(Close());
      if (!closed.ok()) LogWarning(closed.message());
    }
    if (stream_ == nullptr) return;
    // After an error its work may never end: it is told so, and does not wait for it.
    if (!error_.ok()) stream_->Synchronize().IgnoreError();
    stream_->SetWait({});
  }

  // Collective.
  absl::Status Start(GpuUse use) {
    TF_RETURN_IF_ERROR(AgreeOnStatus(inner(), kStart, CreateStream()));
    TF_RETURN_IF_ERROR(log_.Start(device_, *stream_));
    RestartLimit();
    const auto keep_waiting = [this] { return Look([] { return std::string("start: NCCL waits for all ranks"); }); };
    auto communicator = NcclCommunicator::Create(inner(), use, keep_waiting);
    TF_RETURN_IF_ERROR(Keep(communicator.status()));
    communicator_ = *std::move(communicator);
    return absl::OkStatus();
  }

  std::string ToString() const override {
    return absl::StrCat("nccl on ", device_.ToString(), ", ", ForwardingTransport::ToString());
  }
  MemoryKind memory_kind() const override { return MemoryKind::kDevice; }

  absl::StatusOr<TransferHandle> HostBegin(const CallSite& site, const AllToAllVArgs& args) override {
    if (!error_.ok()) return error_;
    auto handle = inner().HostBegin(site, args);
    if (!handle.ok()) return Keep(handle.status());
    return handle;
  }
  absl::Status HostFinish(TransferHandle handle) override {
    if (!error_.ok()) return error_;
    return Keep(inner().HostFinish(handle));
  }

  absl::StatusOr<TransferHandle> Begin(Stream& stream, const CallSite& site, const AllToAllVArgs& args) override {
    if (!error_.ok()) return error_;
    TF_RETURN_IF_ERROR(Keep(ValidateArgs(*this, site, args)));
    const auto handle = slots_.Open(site, args, log_.num_begun());
    if (!handle.ok()) return Keep(handle.status());
    stream.SetWait({.watch = this});
    stream.Record(*ready_);
    stream_->Wait(*ready_);
    TF_RETURN_IF_ERROR(Keep(Enqueue(slots_[*handle])));
    return *handle;
  }

  absl::Status Finish(Stream& stream, TransferHandle handle) override {
    if (!error_.ok()) return error_;
    Transfer& t = slots_[handle];
    stream.SetWait({.watch = this});
    stream.Wait(log_.EndOf(t.sequence));
    t.open = false;
    return absl::OkStatus();
  }

  void Abort(const absl::Status& why) override {
    Keep(why.ok() ? absl::AbortedError("the group was ended without a reason") : why).IgnoreError();
    inner().Abort(why);
  }

 private:
  absl::Status CreateStream() {
    if (device_.kind() != DeviceKind::kCuda) {
      return absl::InvalidArgumentError(absl::StrCat("transport nccl moves memory of GPUs, and rows lie on ",
                                                     device_.ToString(), "; use a GPU, or the mpi transport"));
    }
    TF_ASSIGN_OR_RETURN(ready_, device_.CreateEvent());
    // Its GPU becomes the current one of this thread, as NCCL wants it.
    TF_ASSIGN_OR_RETURN(stream_, device_.CreateStream());
    stream_->SetWait({.watch = this});
    return absl::OkStatus();
  }

  absl::Status Enqueue(const Transfer& t) {
    const int me = rank().value;
    log_.Begin(t);
    stream_->CopyOnDevice(t.recv(me), t.send(me), t.send_bytes(me));
    if (!error_.ok()) return error_;  // a stream that holds much waits, and that has found somebody gone
    RestartLimit();
    const auto keep_waiting = [&] { return Look([&] { return log_.Describe(t); }); };
    TF_RETURN_IF_ERROR(communicator_->Exchange(t, me, stream_->native(), keep_waiting));
    log_.HasBeenEnqueued(*stream_);
    return absl::OkStatus();
  }

  absl::Status Close() {
    if (communicator_ == nullptr) return absl::OkStatus();
    TF_RETURN_IF_ERROR(stream_->Synchronize());
    RestartLimit();
    return communicator_->Close([this] { return Look([] { return std::string("end: NCCL waits for all ranks"); }); });
  }

  // The first error ends the communicator too, so that streams do not go on waiting.
  absl::Status Keep(const absl::Status& status) {
    if (status.ok() || !error_.ok()) return status;
    error_ = status;
    if (communicator_ != nullptr) communicator_->Abort();
    return status;
  }

  void RestartLimit() {
    limit_.emplace(timeout());
    limited_transfer_ = -1;
  }

  // The deadline is that of the oldest transfer under way, from when it is first waited for.
  absl::Status Check() override {
    if (!error_.ok()) return error_;
    const Transfer* const t = log_.FirstUnderWay();
    if (t == nullptr) return absl::OkStatus();  // it is not for other ranks that the stream is waited for
    if (t->sequence != limited_transfer_) {
      RestartLimit();
      limited_transfer_ = t->sequence;
    }
    return Keep(Look([&] { return log_.Describe(*t); }));
  }

  // OK to go on waiting for what `describe` says.
  absl::Status Look(absl::FunctionRef<std::string()> describe) {
    if (const absl::StatusCode code = limit_->Check(); code != absl::StatusCode::kOk) {
      return WaitError(code, timeout(), describe());
    }
    if (!next_look_.Expired()) return absl::OkStatus();
    next_look_ = Deadline::After(kLookPeriod);
    absl::Status status = communicator_ == nullptr ? absl::OkStatus() : communicator_->AsyncError();
    for (int r = 0; r < num_ranks() && status.ok(); ++r) {
      const absl::Status alive = r == rank().value ? absl::OkStatus() : inner().peers().CheckAlive(RankId(r));
      num_times_gone_[r] = alive.ok() ? 0 : num_times_gone_[r] + 1;
      if (num_times_gone_[r] > 1) status = alive;  // once: it may have done its part before
    }
    return status.ok() ? status : absl::Status(status.code(), absl::StrCat(status.message(), ": ", describe()));
  }

  Device& device_;
  TransferLog log_;
  std::unique_ptr<Event> ready_;    // what a transfer comes after
  std::unique_ptr<Stream> stream_;  // of all transfers, in their order
  std::unique_ptr<NcclCommunicator> communicator_;
  TransferSlots<Transfer> slots_;
  absl::Status error_;
  std::optional<WaitLimit> limit_;  // of the wait that is going on
  int64_t limited_transfer_ = -1;   // which it is for
  Deadline next_look_ = Deadline::After(kLookPeriod);
  std::vector<int> num_times_gone_;  // [R] in a row
};

}  // namespace

absl::StatusOr<std::unique_ptr<Transport>> CreateNcclTransport(Transport& control, Device& device, GpuUse use) {
  auto transport = std::make_unique<NcclTransport>(control, device);
  TF_RETURN_IF_ERROR(transport->Start(use));
  return transport;
}

}  // namespace tokenferry

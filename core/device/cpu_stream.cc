#include "core/device/cpu_stream.h"

#include <array>
#include <cstring>

#include "core/check.h"

namespace tokenferry {

void CpuWorkQueue::Enqueue(Task task) {
  ++num_enqueued_;
  pending_.push_back(std::move(task));
}

absl::Status CpuWorkQueue::RunUntil(int64_t point) {
  // A task may wait for another stream, and that one for a point of this stream. Such a point was recorded before the
  // task was enqueued, so it has been passed already: the loop below never runs twice at a time.
  while (num_completed_ < point) {
    const Task task = std::move(pending_.front());
    pending_.pop_front();
    Complete(task);
  }
  return !status_.ok() && failed_task_ < point ? status_ : absl::OkStatus();
}

void CpuWorkQueue::Fail(const absl::Status& status) {
  ++num_enqueued_;
  pending_.push_front([status] { return status; });
}

CpuDeviceState::CpuDeviceState(CpuDeviceOptions o)
    : options(std::move(o)), pool(options.num_threads, options.cpus), context{pool, options.isa} {}

void CpuDeviceState::Run(const ErasedOp& op, const void* args) {
  if (options.kernels == KernelSet::kReference || op.run_cpu == nullptr) {
    op.run_reference(op.op, args);
  } else {
    op.run_cpu(op.op, args, context);
  }
}

CpuStream::CpuStream(Device& device, CpuDeviceState& state) : device_(device), state_(state) {
  state_.queues.push_back(queue_);
}

CpuStream::~CpuStream() {
  queue_->RunUntil(queue_->point()).IgnoreError();  // Synchronize is where errors are asked for
  std::erase(state_.queues, queue_);
}

// Limits are looked at before each piece of work: one that has begun is not interrupted.
absl::Status CpuStream::Synchronize() {
  const Deadline deadline = Deadline::After(wait().timeout);
  const int64_t point = queue_->point();
  const bool is_limited = IsWaitLimited();
  while (is_limited && queue_->num_completed() < point) {
    if (const absl::Status status = CheckWait(deadline); !status.ok()) {
      queue_->Fail(status);
      break;
    }
    queue_->RunUntil(queue_->num_completed() + 1).IgnoreError();  // it sticks
  }
  TF_RETURN_IF_ERROR(queue_->RunUntil(queue_->point()));
  if (!is_limited) return absl::OkStatus();
  const absl::Status status = CheckWatches();
  if (!status.ok()) queue_->Fail(status);
  return status;
}

template <class F>
void CpuStream::Submit(F work) {
  auto task = [arena = state_.arena(), work = std::move(work)] {
    const TrapArena::Access access(arena);
    work();
    return absl::OkStatus();
  };
  if (lazy()) {
    queue_->Enqueue(std::move(task));
  } else {
    queue_->RunNow(task);
  }
}

void CpuStream::CopyToDevice(void* dst, const void* src, size_t num_bytes) {
  if (!lazy()) return Copy(dst, src, num_bytes);
  if (num_bytes == 0) return;
  const auto* bytes = static_cast<const char*>(src);
  Submit([dst, copy = std::vector<char>(bytes, bytes + num_bytes)] { std::memcpy(dst, copy.data(), copy.size()); });
}

void CpuStream::Copy(void* dst, const void* src, size_t num_bytes) {
  if (num_bytes == 0) return;
  Submit([=] { std::memcpy(dst, src, num_bytes); });
}

void CpuStream::Fill(void* dst, uint8_t byte, size_t num_bytes) {
  if (num_bytes == 0) return;
  Submit([=] { std::memset(dst, byte, num_bytes); });
}

void CpuStream::LaunchErased(const ErasedOp& op, const void* args, size_t num_bytes) {
  if (!lazy()) return Submit([this, op, args] { state_.Run(op, args); });
  struct Args {
    alignas(std::max_align_t) std::array<char, kMaxArgsBytes> bytes;
  } copy;
  std::memcpy(copy.bytes.data(), args, num_bytes);
  Submit([&state = state_, op, copy] { state.Run(op, copy.bytes.data()); });
}

void CpuStream::Record(Event& event) {
  auto& e = static_cast<CpuEvent&>(event);
  e.queue = queue_;
  e.point = queue_->point();
}

void CpuStream::Wait(Event& event) {
  const auto& e = static_cast<CpuEvent&>(event);
  auto wait = [queue = e.queue, point = e.point]() -> absl::Status {
    if (queue == nullptr) return absl::FailedPreconditionError("a stream waits for an event that was never recorded");
    return queue->RunUntil(point);
  };
  if (lazy()) {
    queue_->Enqueue(std::move(wait));
  } else {
    queue_->RunNow(wait);
  }
}

}  // namespace tokenferry

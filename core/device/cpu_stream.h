// Streams and events of the CPU device. Private to core/device.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>

#include "core/device/cpu_device.h"
#include "core/device/trap_arena.h"

namespace tokenferry {

// The work of one stream in order. Shared with the events recorded on the stream, which may outlive it.
class CpuWorkQueue {
 public:
  using Task = std::function<absl::Status()>;

  // Runs `task` now, or, when earlier work has failed, drops it. Only while nothing is pending.
  template <class F>
  void RunNow(F&& task) {
    ++num_enqueued_;
    Complete(task);
  }
  void Enqueue(Task task);

  // A point is the number of tasks enqueued before it. RunUntil runs what is pending before `point`; the status is the
  // first error before it.
  int64_t point() const { return num_enqueued_; }
  int64_t num_completed() const { return num_completed_; }
  absl::Status RunUntil(int64_t point);
  // What is pending is dropped, as after an error of the last task.
  void Fail(const absl::Status& status);

 private:
  template <class F>
  void Complete(F&& task) {
    if (status_.ok()) {
      status_ = task();
      failed_task_ = num_completed_;
    }
    ++num_completed_;
  }

  std::deque<Task> pending_;
  int64_t num_enqueued_ = 0;
  int64_t num_completed_ = 0;
  absl::Status status_;
  int64_t failed_task_ = 0;  // where status_ comes from
};

struct CpuEvent : public Event {
  std::shared_ptr<CpuWorkQueue> queue;  // null: never recorded
  int64_t point = 0;
};

// What a CPU device shares with its streams.
struct CpuDeviceState {
  explicit CpuDeviceState(CpuDeviceOptions options);
  void Run(const ErasedOp& op, const void* args);
  TrapArena* arena() { return options.memory == CpuMemory::kTrap ? &trap_arena : nullptr; }

  CpuDeviceOptions options;
  ThreadPool pool;
  CpuContext context;
  TrapArena trap_arena;
  std::vector<std::shared_ptr<CpuWorkQueue>> queues;  // one per live stream
};

class CpuStream : public Stream {
 public:
  CpuStream(Device& device, CpuDeviceState& state);
  ~CpuStream() override;

  Device& device() override { return device_; }
  void CopyToDevice(void* dst, const void* src, size_t num_bytes) override;
  void CopyToHost(void* dst, const void* src, size_t num_bytes) override { Copy(dst, src, num_bytes); }
  void CopyOnDevice(void* dst, const void* src, size_t num_bytes) override { Copy(dst, src, num_bytes); }
  void Fill(void* dst, uint8_t byte, size_t num_bytes) override;
  void Record(Event& event) override;
  void Wait(Event& event) override;
  absl::Status Synchronize() override;
  void* native() override { return nullptr; }

 protected:
  void LaunchErased(const ErasedOp& op, const void* args, size_t num_bytes) override;

 private:
  bool lazy() const { return state_.options.execution == CpuExecution::kLazy; }
  void Copy(void* dst, const void* src, size_t num_bytes);
  // Enqueues or runs `work`, with the device's memory accessible. `work` returns nothing and is copyable.
  template <class F>
  void Submit(F work);

  Device& device_;
  CpuDeviceState& state_;
  std::shared_ptr<CpuWorkQueue> queue_ = std::make_shared<CpuWorkQueue>();
};

}  // namespace tokenferry

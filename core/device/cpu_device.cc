#include "core/device/cpu_device.h"

#include <cstdlib>
#include <cstring>

#include "core/check.h"

namespace tokenferry {
namespace {

class CpuEvent : public Event {};

class CpuDevice;

class CpuStream : public Stream {
 public:
  explicit CpuStream(CpuDevice& device) : device_(device) {}
  Device& device() override;
  void CopyToDevice(void* dst, const void* src, size_t n) override {
    if (n) std::memcpy(dst, src, n);
  }
  void CopyToHost(void* dst, const void* src, size_t n) override {
    if (n) std::memcpy(dst, src, n);
  }
  void CopyOnDevice(void* dst, const void* src, size_t n) override {
    if (n) std::memcpy(dst, src, n);
  }
  void Fill(void* dst, uint8_t byte, size_t n) override {
    if (n) std::memset(dst, byte, n);
  }
  void Record(Event&) override {}
  void Wait(Event&) override {}
  absl::Status Synchronize() override { return absl::OkStatus(); }

 protected:
  void LaunchErased(const ErasedOp& op, const void* args, size_t) override;

 private:
  CpuDevice& device_;
};

class CpuDevice : public Device {
 public:
  explicit CpuDevice(CpuDeviceOptions options)
      : options_(std::move(options)), pool_(options_.num_threads, options_.cpus), context_{pool_, options_.isa} {}
  DeviceKind kind() const override { return DeviceKind::kCpu; }
  std::string ToString() const override { return absl::StrCat("cpu (", IsaName(options_.isa), ")"); }
  absl::StatusOr<std::unique_ptr<Stream>> CreateStream() override { return std::make_unique<CpuStream>(*this); }
  absl::StatusOr<std::unique_ptr<Event>> CreateEvent() override { return std::make_unique<CpuEvent>(); }
  absl::StatusOr<void*> AllocateMemory(size_t n, MemoryKind) override {
    void* p = std::aligned_alloc(64, (n + 63) / 64 * 64);
    if (p == nullptr) return absl::ResourceExhaustedError("out of memory");
    return p;
  }
  void FreeMemory(void* data, size_t, MemoryKind) override { std::free(data); }
  void Run(const ErasedOp& op, const void* args) {
    if (options_.kernels == KernelSet::kReference) {
      op.run_reference(op.op, args);
    } else {
      op.run_cpu(op.op, args, context_);
    }
  }

 private:
  CpuDeviceOptions options_;
  ThreadPool pool_;
  CpuContext context_;
};

Device& CpuStream::device() { return device_; }
void CpuStream::LaunchErased(const ErasedOp& op, const void* args, size_t) { device_.Run(op, args); }

}  // namespace

std::unique_ptr<Device> CreateCpuDevice(CpuDeviceOptions options) {
  return std::make_unique<CpuDevice>(std::move(options));
}

}  // namespace tokenferry

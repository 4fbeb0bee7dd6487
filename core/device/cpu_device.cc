#include "core/device/cpu_device.h"

#include <cstdlib>
#include <limits>

#include "core/device/cpu_stream.h"
#include "core/device/exported_memory.h"

namespace tokenferry {
namespace {

class CpuDevice : public Device {
 public:
  explicit CpuDevice(CpuDeviceOptions options) : state_(std::move(options)) {}

  DeviceKind kind() const override { return DeviceKind::kCpu; }
  std::string ToString() const override { return absl::StrCat("cpu (", IsaName(state_.options.isa), ")"); }
  absl::StatusOr<std::unique_ptr<Stream>> CreateStream() override { return std::make_unique<CpuStream>(*this, state_); }
  absl::StatusOr<std::unique_ptr<Event>> CreateEvent() override { return std::make_unique<CpuEvent>(); }

  absl::StatusOr<std::string> Export(const Buffer& buffer) override {
    if (state_.arena() != nullptr) {
      return absl::FailedPreconditionError(
          "memory of a CPU device in trap mode is open to operations of that device alone; share that of another mode");
    }
    return EncodeExported(ExportedMemory{ThisProcessToken(), buffer.data()});
  }
  absl::StatusOr<std::shared_ptr<void>> Import(absl::string_view exported) override {
    TF_ASSIGN_OR_RETURN(const auto theirs, DecodeExported<ExportedMemory>(exported));
    if (theirs.process != ThisProcessToken()) {
      return absl::FailedPreconditionError("memory of a CPU device is shared between ranks of one process only");
    }
    KeepExported(theirs.data);
    return std::shared_ptr<void>(theirs.data, LetGoOfExported);
  }

 protected:
  absl::StatusOr<void*> AllocateMemory(size_t num_bytes, MemoryKind kind) override {
    if (InArena(kind)) return state_.trap_arena.Allocate(num_bytes);
    constexpr size_t kAlign = 64, kMost = std::numeric_limits<ptrdiff_t>::max() - kAlign;
    void* data = num_bytes > kMost ? nullptr : std::aligned_alloc(kAlign, (num_bytes + kAlign - 1) / kAlign * kAlign);
    if (data == nullptr) return absl::ResourceExhaustedError("not enough memory");
    return data;
  }

  void FreeMemory(void* data, size_t num_bytes, MemoryKind kind) override {
    for (const auto& queue : state_.queues) queue->RunUntil(queue->point()).IgnoreError();  // Synchronize reports it
    if (InArena(kind)) {
      state_.trap_arena.Free(data, num_bytes);
    } else {
      ReleaseExported(data, [data] { std::free(data); });
    }
  }

 private:
  bool InArena(MemoryKind kind) const {
    return kind == MemoryKind::kDevice && state_.options.memory == CpuMemory::kTrap;
  }

  CpuDeviceState state_;
};

}  // namespace

std::unique_ptr<Device> CreateCpuDevice(CpuDeviceOptions options) {
  return std::make_unique<CpuDevice>(std::move(options));
}

}  // namespace tokenferry

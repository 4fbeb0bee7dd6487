// The CPU devices that operation tests run on, and moving vectors to and from them.
#pragma once

#include <cstring>
#include <memory>
#include <ostream>
#include <random>
#include <vector>

#include "core/device/cpu_device.h"
#include "gtest/gtest.h"

namespace tokenferry {

class TestDevice {
 public:
  explicit TestDevice(CpuDeviceOptions options) : device_(CreateCpuDevice(std::move(options))) {
    stream_ = *device_->CreateStream();
  }
  Device& device() { return *device_; }
  Stream& stream() { return *stream_; }

  template <class T>
  Buffer Upload(const std::vector<T>& values) {
    Buffer buffer = Allocate<T>(values.size());
    stream_->CopyToDevice(buffer.data(), values.data(), values.size() * sizeof(T));
    return buffer;
  }
  template <class T>
  Buffer Allocate(size_t size) {
    auto buffer = device_->Allocate(size * sizeof(T), MemoryKind::kDevice, "test");
    if (!buffer.ok()) ADD_FAILURE() << buffer.status();
    return *std::move(buffer);
  }
  template <class T>
  std::vector<T> Download(const Buffer& buffer) {
    std::vector<T> values(buffer.num_bytes() / sizeof(T));
    stream_->CopyToHost(values.data(), buffer.data(), buffer.num_bytes());
    const absl::Status status = stream_->Synchronize();
    EXPECT_TRUE(status.ok()) << status;
    return values;
  }

 private:
  std::unique_ptr<Device> device_;
  std::unique_ptr<Stream> stream_;
};

inline CpuDeviceOptions ReferenceDevice() { return {.kernels = KernelSet::kReference}; }

// Every instruction set of this machine with 1, 2 and 3 threads, then the execution and memory modes.
inline std::vector<CpuDeviceOptions> FastDevices() {
  std::vector<CpuDeviceOptions> cases;
  for (Isa isa : {Isa::kPortable, Isa::kNeon, Isa::kAvx2, Isa::kAvx512, Isa::kAvx512Bf16}) {
    if ((SupportedIsas() >> static_cast<int>(isa) & 1) == 0) continue;
    for (int num_threads : {1, 2, 3}) cases.push_back({.num_threads = num_threads, .isa = isa});
  }
  const Isa best = BestIsa(SupportedIsas());
  cases.push_back({.num_threads = 2, .isa = best, .execution = CpuExecution::kLazy});
  cases.push_back({.num_threads = 2, .isa = best, .memory = CpuMemory::kTrap});
  cases.push_back({.num_threads = 2, .isa = best, .execution = CpuExecution::kLazy, .memory = CpuMemory::kTrap});
  cases.push_back({.execution = CpuExecution::kLazy, .memory = CpuMemory::kTrap, .kernels = KernelSet::kReference});
  return cases;
}

inline std::ostream& operator<<(std::ostream& out, const CpuDeviceOptions& o) {
  return out << IsaName(o.isa) << (o.kernels == KernelSet::kReference ? ", reference" : "") << ", " << o.num_threads
             << " threads" << (o.execution == CpuExecution::kLazy ? ", lazy" : "")
             << (o.memory == CpuMemory::kTrap ? ", trap" : "");
}

template <class T>
bool SameBits(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0);
}

inline std::vector<float> RandomNormal(std::mt19937& rng, size_t size, float scale = 1) {
  std::normal_distribution<float> normal(0, scale);
  std::vector<float> values(size);
  for (float& x : values) x = normal(rng);
  return values;
}

}  // namespace tokenferry

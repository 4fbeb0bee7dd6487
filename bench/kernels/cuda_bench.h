// What the benchmarks of a GPU's kernels share.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/check.h"
#include "core/device/device.h"

namespace tokenferry {

// A device, a stream and what has been allocated.
class Bench {
 public:
  explicit Bench(std::unique_ptr<Device> device) : device_(std::move(device)), stream_(*device_->CreateStream()) {}

  Stream& stream() { return *stream_; }
  Device& device() { return *device_; }
  template <class T>
  T* Allocate(size_t size) {
    auto buffer = device_->Allocate(size * sizeof(T), MemoryKind::kDevice, "bench");
    TF_CHECK_EQ(buffer.status(), absl::OkStatus());
    buffers_.push_back(*std::move(buffer));
    return buffers_.back().as<T>();
  }
  template <class T>
  T* Upload(const std::vector<T>& values) {
    T* data = Allocate<T>(values.size());
    stream_->CopyToDevice(data, values.data(), values.size() * sizeof(T));
    return data;
  }
  void Wait() { TF_CHECK_EQ(stream_->Synchronize(), absl::OkStatus()); }
  void FreeAll() { buffers_.clear(); }

 private:
  std::unique_ptr<Device> device_;
  std::vector<Buffer> buffers_;
  std::unique_ptr<Stream> stream_;
};

// What bounds the operations of a kernel besides memory.
enum class Units : uint8_t { kNone, kTensor, kF32 };

struct Result {
  std::string name;
  double seconds = 0, bytes = 0, flops = 0;
  Units units = Units::kNone;
};

// Seconds per call of `launch`: of as many as take a fifth of a second, after a first one.
double SecondsPerLaunch(Bench& bench, const std::function<void()>& launch);

// [size] in [-1, 1].
std::vector<float> Random(size_t size);

// Operations of a model's layer that are no products alone, of DeepSeek-V3's shapes or those of the model that has
// them: a decode step of 128 tokens with 4,096 tokens of context each. Tests compare them with their references; here
// their outputs have to be numbers, and after the timing those from before it.
using OpTimer = Result (*)(Bench& bench);
const std::vector<OpTimer>& OpTimers();

}  // namespace tokenferry

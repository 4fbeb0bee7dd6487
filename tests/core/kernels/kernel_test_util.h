// Devices, buffers and random matrices for kernel tests.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "core/check.h"
#include "core/device/cpu_device.h"
#include "core/formats/tensor.h"
#include "core/formats/weight_format.h"

namespace tokenferry {

// A CPU device with one stream; what it allocates lives as long as it does.
class TestDevice {
 public:
  explicit TestDevice(CpuDeviceOptions options) : device_(CreateCpuDevice(std::move(options))) {
    auto stream = device_->CreateStream();
    TF_CHECK(stream.ok());
    stream_ = std::move(*stream);
  }

  Stream& stream() { return *stream_; }

  template <class T>
  T* Upload(const std::vector<T>& host) {
    T* data = Allocate<T>(host.size());
    if (!host.empty()) stream_->CopyToDevice(data, host.data(), host.size() * sizeof(T));
    return data;
  }

  template <class T>
  T* Allocate(size_t size) {
    auto buffer = device_->Allocate(size * sizeof(T), MemoryKind::kDevice, "test");
    TF_CHECK(buffer.ok());
    buffers_.push_back(std::move(*buffer));
    return buffers_.back().as<T>();
  }

  template <class T>
  std::vector<T> Download(const T* data, size_t size) {
    std::vector<T> host(size);
    if (size > 0) stream_->CopyToHost(host.data(), data, size * sizeof(T));
    EXPECT_EQ(stream_->Synchronize(), absl::OkStatus());
    return host;
  }

 private:
  std::unique_ptr<Device> device_;
  std::vector<Buffer> buffers_;
  std::unique_ptr<Stream> stream_;
};

inline CpuDeviceOptions ReferenceOptions() { return {.kernels = KernelSet::kReference}; }
inline CpuDeviceOptions FastOptions(Isa isa, int num_threads = 1) { return {.num_threads = num_threads, .isa = isa}; }

inline std::vector<Isa> SupportedIsaList() {
  std::vector<Isa> list;
  for (int i = 0; i < 8; ++i) {
    if (SupportedIsas() & (1u << i)) list.push_back(static_cast<Isa>(i));
  }
  return list;
}

// Every way in which a CPU device may run operations and guard memory.
inline std::vector<CpuDeviceOptions> AllDeviceModes(Isa isa) {
  std::vector<CpuDeviceOptions> list;
  for (CpuExecution execution : {CpuExecution::kEager, CpuExecution::kLazy}) {
    for (CpuMemory memory : {CpuMemory::kPlain, CpuMemory::kTrap}) {
      list.push_back({.num_threads = 2, .isa = isa, .execution = execution, .memory = memory});
    }
  }
  return list;
}

template <class T>
testing::AssertionResult SameBytes(const std::vector<T>& a, const std::vector<T>& b) {
  if (a.size() != b.size()) return testing::AssertionFailure() << "sizes " << a.size() << " and " << b.size();
  for (size_t i = 0; i < a.size(); ++i) {
    if (std::memcmp(&a[i], &b[i], sizeof(T)) != 0) {
      return testing::AssertionFailure() << "element " << i << " of " << a.size() << ": " << a[i] << " and " << b[i];
    }
  }
  return testing::AssertionSuccess();
}

inline std::vector<float> RandomFloats(size_t size, std::mt19937& random, float scale = 1.0f) {
  std::normal_distribution<float> normal(0.0f, scale);
  std::vector<float> values(size);
  for (float& v : values) v = normal(random);
  return values;
}

inline std::vector<BF16> ToBF16s(const std::vector<float>& values) {
  std::vector<BF16> narrow;
  for (float v : values) narrow.push_back(ToBF16(v));
  return narrow;
}

// A weight matrix on the host, and views of it on any device.
struct HostWeight {
  WeightView shape;  // without pointers
  std::vector<uint8_t> bytes;
  std::vector<float> scales;           // of F8BlockWeights
  std::vector<uint8_t> planar_scales;  // of PlanarWeights, in their own type
  std::vector<uint8_t> zero_points;

  WeightView Upload(TestDevice& device) const {
    WeightView w = shape;
    w.data = device.Upload(bytes);
    if (!scales.empty()) w.scales = device.Upload(scales);
    if (!planar_scales.empty()) w.scales = device.Upload(planar_scales);
    if (!zero_points.empty()) w.zero_points = device.Upload(zero_points);
    return w;
  }
};

// Random codes, with scales of both signs that bring them to about 1 / 8.
inline HostWeight RandomPlanarWeight(const WeightFormat& format, int64_t rows, int64_t cols, std::mt19937& random) {
  HostWeight w;
  w.shape = {.format = format, .rows = rows, .cols = cols};
  w.shape.scale_stride = (cols + format.block_cols - 1) / format.block_cols;
  const WeightBytes bytes = BytesOf(format, rows, cols);
  const auto random_bytes = [&](int64_t size) {
    std::vector<uint8_t> values(size);
    for (uint8_t& v : values) v = static_cast<uint8_t>(random());
    return values;
  };
  w.bytes = random_bytes(bytes.data);
  w.zero_points = random_bytes(bytes.zero_points);
  w.planar_scales = random_bytes(bytes.scales);
  const float size = 0.25f / static_cast<float>(1 << DTypeBits(format.dtype));
  const std::vector<float> scales = RandomFloats(rows * w.shape.scale_stride, random, size);
  for (size_t i = 0; i < scales.size(); ++i) {
    uint8_t* const p = w.planar_scales.data();
    if (format.scale_dtype == DType::kF32) std::memcpy(p + 4 * i, &scales[i], 4);
    if (format.scale_dtype == DType::kBF16) reinterpret_cast<BF16*>(p)[i] = ToBF16(scales[i]);
    if (format.scale_dtype == DType::kF16) reinterpret_cast<FP16*>(p)[i] = ToFP16(scales[i]);
    if (format.scale_dtype == DType::kUE8M0) p[i] = static_cast<uint8_t>(119 + random() % 8);
  }
  return w;
}

// Normal values; E4M3 codes of normal values times 64 with scales around 1 / 512, so that products are of similar size.
inline HostWeight RandomWeight(DType dtype, int64_t rows, int64_t cols, std::mt19937& random, int32_t block_rows = 128,
                               int32_t block_cols = 128) {
  HostWeight w;
  w.shape = {.format = {.dtype = dtype}, .rows = rows, .cols = cols};
  const std::vector<float> values = RandomFloats(rows * cols, random, dtype == DType::kF8E4M3 ? 64.0f : 0.125f);
  w.bytes.resize(rows * cols * DTypeBytes(dtype));
  for (int64_t i = 0; i < rows * cols; ++i) {
    uint8_t* at = w.bytes.data() + i * DTypeBytes(dtype);
    if (dtype == DType::kF32) std::memcpy(at, &values[i], 4);
    if (dtype == DType::kBF16) reinterpret_cast<BF16*>(w.bytes.data())[i] = ToBF16(values[i]);
    if (dtype == DType::kF16) reinterpret_cast<FP16*>(w.bytes.data())[i] = ToFP16(values[i]);
    if (dtype == DType::kF8E4M3) *at = ToF8E4M3(values[i]).bits;
  }
  if (dtype == DType::kF8E4M3) {
    w.shape.format = F8BlockWeights::Of(block_rows, block_cols);
    w.shape.scale_stride = (cols + block_cols - 1) / block_cols;
    w.scales = RandomFloats((rows + block_rows - 1) / block_rows * w.shape.scale_stride, random, 1.0f / 512);
  }
  return w;
}

}  // namespace tokenferry

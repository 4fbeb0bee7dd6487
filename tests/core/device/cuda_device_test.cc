#include "core/device/cuda_device.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>
#include <vector>

#include "tests/core/device/device_test_ops.h"

namespace tokenferry {
namespace {

// On a machine with a GPU the tests below use it; elsewhere this one shows that the error is clear.
TEST(CudaDeviceTest, WithoutAGpuTheErrorSaysSo) {
  auto device = CreateCudaDevice({});
  if (device.ok()) GTEST_SKIP() << "there is " << (*device)->ToString();
  EXPECT_THAT(std::string(device.status().message()), testing::StartsWith("no CUDA device: "));
  EXPECT_GT(device.status().message().size(), 20u) << "and why";
}

TEST(CudaDeviceTest, AnImpossibleOrdinalIsRefused) {
  for (int ordinal : {-1, 1000}) {
    const auto device = CreateCudaDevice({.ordinal = ordinal});
    ASSERT_FALSE(device.ok());
    EXPECT_THAT(std::string(device.status().message()), testing::StartsWith("no CUDA device: "));
  }
}

class CudaGpuTest : public testing::Test {
 protected:
  void SetUp() override {
    auto device = CreateCudaDevice({});
    if (!device.ok()) GTEST_SKIP() << device.status().message();
    device_ = *std::move(device);
    stream_ = *device_->CreateStream();
  }
  std::unique_ptr<Device> device_;
  std::unique_ptr<Stream> stream_;
};

TEST_F(CudaGpuTest, CopiesOfAnySizeKeepTheirBytesWhenTheSourceIsReused) {
  std::vector<Buffer> buffers;
  const std::vector<size_t> sizes = {1, 255, 256, 257, 3 << 20, 4 << 20, (4 << 20) + 1, 9 << 20, 5};
  for (size_t i = 0; i < sizes.size(); ++i) {
    buffers.push_back(*device_->Allocate(sizes[i], MemoryKind::kDevice, "a"));
    std::vector<uint8_t> bytes(sizes[i], static_cast<uint8_t>(i + 1));
    stream_->CopyToDevice(buffers.back().data(), bytes.data(), sizes[i]);
    std::fill(bytes.begin(), bytes.end(), 0xFF);
  }
  for (size_t i = 0; i < sizes.size(); ++i) {
    std::vector<uint8_t> bytes(sizes[i]);
    stream_->CopyToHost(bytes.data(), buffers[i].data(), sizes[i]);
    ASSERT_TRUE(stream_->Synchronize().ok());
    EXPECT_EQ(bytes, std::vector<uint8_t>(sizes[i], static_cast<uint8_t>(i + 1)));
  }
}

TEST_F(CudaGpuTest, AnOperationWithoutKernelIsAStickyErrorWithItsName) {
  auto other = *device_->CreateStream();
  auto event = *device_->CreateEvent();
  stream_->Launch(kMulAdd, {});
  stream_->Record(*event);
  EXPECT_EQ(stream_->Synchronize().code(), absl::StatusCode::kUnimplemented);
  EXPECT_THAT(std::string(stream_->Synchronize().message()), testing::HasSubstr("'mul_add'"));
  EXPECT_TRUE(other->Synchronize().ok());
  other->Wait(*event);
  EXPECT_EQ(other->Synchronize(), stream_->Synchronize());
}

}  // namespace
}  // namespace tokenferry

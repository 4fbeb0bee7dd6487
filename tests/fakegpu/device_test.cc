// The CUDA device of core where a GPU has failed.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vector>

#include "absl/strings/str_split.h"
#include "core/device/cuda_device.h"
#include "tests/fakegpu/cudart/runtime.h"

namespace tokenferry::fakegpu {
namespace {

TEST(FakeGpuDeviceTest, AFailedGpuIsToldOnce) {
  auto device = CreateCudaDevice({});
  ASSERT_TRUE(device.ok()) << device.status();
  std::vector<Buffer> buffers;
  for (int i = 0; i < 5; ++i) buffers.push_back(*(*device)->Allocate(8, MemoryKind::kDevice, "a"));
  auto stream = *(*device)->CreateStream();
  auto event = *(*device)->CreateEvent();
  Runtime::Get().sticky = cudaErrorLaunchFailure;
  EXPECT_EQ(stream->Synchronize().code(), absl::StatusCode::kInternal);
  testing::internal::CaptureStderr();
  event.reset();
  buffers.clear();
  stream.reset();
  device->reset();
  const std::string told = testing::internal::GetCapturedStderr();
  Runtime::Get().sticky = cudaSuccess;
  cudaGetLastError();
  EXPECT_EQ(std::vector<std::string>(absl::StrSplit(told, "cudaErrorLaunchFailure")).size(), 1 + 1) << told;
}

}  // namespace
}  // namespace tokenferry::fakegpu

// The CUDA device of core where a GPU does not go on, or has failed.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <vector>

#include "absl/strings/str_split.h"
#include "core/device/cuda_device.h"
#include "core/host/clock.h"
#include "tests/fakegpu/cudart/runtime.h"
#include "tests/fakegpu/waiting.h"

namespace tokenferry::fakegpu {
namespace {

TEST(FakeGpuDeviceTest, KernelsAreLoadedAtTheStart) {
  ASSERT_TRUE(CreateCudaDevice({}).ok());
  EXPECT_STREQ(std::getenv("CUDA_MODULE_LOADING"), "EAGER");
}

class Peer : public StreamWatch {
 public:
  absl::Status Check() override { return status; }
  absl::Status status;
};

// More than CUDA holds wait behind a kernel that waits for a rank that has gone: the host does not wait in a launch.
TEST(FakeGpuDeviceTest, APeerThatHasGoneIsNamedWhileManyLaunchesArePending) {
  constexpr int kLaunches = 3 * static_cast<int>(WorkQueue::kMostPending);
  const auto device = CreateCudaDevice({});
  ASSERT_TRUE(device.ok()) << device.status();
  const Buffer flag = *(*device)->Allocate(8, MemoryKind::kDevice, "flag"),
               rows = *(*device)->Allocate(8, MemoryKind::kDevice, "rows");
  Peer peer;
  auto stream = *(*device)->CreateStream(), other = *(*device)->CreateStream();
  stream->Watch(peer);
  other->Fill(flag.data(), 0, 8);
  ASSERT_EQ(other->Synchronize(), absl::OkStatus());

  WaitFor(flag.as<unsigned long long>(), 1, static_cast<cudaStream_t>(stream->native()));  // NOLINT: CUDA's type
  Raise(flag.as<unsigned long long>(), static_cast<cudaStream_t>(other->native()));        // NOLINT
  for (int i = 0; i < kLaunches; ++i) stream->Fill(rows.data(), 1, 8);
  EXPECT_EQ(stream->Synchronize(), absl::OkStatus()) << "it goes on when the rank has come";

  WaitFor(flag.as<unsigned long long>(), 2, static_cast<cudaStream_t>(stream->native()));  // NOLINT
  peer.status = absl::UnavailableError("rank 3 has gone");
  const Stopwatch watch;
  for (int i = 0; i < kLaunches; ++i) stream->Fill(rows.data(), 1, 8);
  EXPECT_EQ(stream->Synchronize(), peer.status);
  EXPECT_LT(watch.elapsed(), absl::Seconds(30));
  Raise(flag.as<unsigned long long>(), static_cast<cudaStream_t>(other->native()));  // NOLINT
  EXPECT_EQ(other->Synchronize(), absl::OkStatus());
}

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

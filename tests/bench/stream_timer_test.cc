#include "bench/measure/stream_timer.h"

#include <gtest/gtest.h>

#include "core/device/cpu_device.h"
#include "core/device/cuda_device.h"

namespace tokenferry {
namespace {

class StreamTimerTest : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    const std::string name = GetParam();
    if (name != "cuda") {
      device_ = CreateCpuDevice({.execution = name == "lazy" ? CpuExecution::kLazy : CpuExecution::kEager});
      return;
    }
    auto device = CreateCudaDevice({});
    if (!device.ok()) GTEST_SKIP() << device.status().message();
    device_ = *std::move(device);
  }
  std::unique_ptr<Device> device_;
};
INSTANTIATE_TEST_SUITE_P(Devices, StreamTimerTest, testing::Values("eager", "lazy", "cuda"),
                         [](const auto& info) { return std::string(info.param); });

TEST_P(StreamTimerTest, PointsAreInTheOrderOfTheStream) {
  const auto stream = *device_->CreateStream();
  const auto timer = StreamTimer::Create(*device_, 3);
  ASSERT_TRUE(timer.ok()) << timer.status();
  const Buffer bytes = *device_->Allocate(1 << 16, MemoryKind::kDevice, "test");
  for (int round = 0; round < 2; ++round) {  // marked again, a point is a new one
    ASSERT_EQ((*timer)->Mark(*stream, 0), absl::OkStatus());
    for (uint8_t i = 0; i < 50; ++i) stream->Fill(bytes.data(), i, bytes.num_bytes());
    ASSERT_EQ((*timer)->Mark(*stream, 1), absl::OkStatus());
    ASSERT_EQ((*timer)->Mark(*stream, 2), absl::OkStatus());
    ASSERT_EQ(stream->Synchronize(), absl::OkStatus());
    const auto work = (*timer)->Seconds(0, 1), whole = (*timer)->Seconds(0, 2), back = (*timer)->Seconds(1, 0);
    ASSERT_TRUE(work.ok() && whole.ok() && back.ok());
    EXPECT_GT(*work, 0);
    EXPECT_GE(*whole, *work);
    EXPECT_LT(*back, 0);
  }
}

TEST_P(StreamTimerTest, APointThatWasNotReachedHasNoTimeOnAGpu) {
  if (std::string(GetParam()) != "cuda") GTEST_SKIP() << "Mark waits on a CPU";
  const auto stream = *device_->CreateStream();
  const auto timer = *StreamTimer::Create(*device_, 2);
  ASSERT_EQ(timer->Mark(*stream, 0), absl::OkStatus());
  ASSERT_EQ(stream->Synchronize(), absl::OkStatus());
  EXPECT_FALSE(timer->Seconds(0, 1).ok());
}

}  // namespace
}  // namespace tokenferry

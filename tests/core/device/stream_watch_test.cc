// Watches of a stream's waits (Stream::Watch), memory shared between devices, and graphs: on the CPU what can be shown
// there, all of it where there is a CUDA device.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <optional>
#include <vector>

#include "core/device/cpu_device.h"
#include "core/device/cuda_device.h"

namespace tokenferry {
namespace {

using testing::HasSubstr;

class CountingWatch : public StreamWatch {
 public:
  absl::Status Check() override {
    ++num_checks;
    return status;
  }
  int num_checks = 0;
  absl::Status status;
};

class StreamWatchTest : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    const std::string name = GetParam();
    if (name != "cuda") {
      device_ = CreateCpuDevice({.execution = name == "lazy" ? CpuExecution::kLazy : CpuExecution::kEager});
    } else {
      auto device = CreateCudaDevice({});
      if (!device.ok()) GTEST_SKIP() << device.status().message();
      device_ = *std::move(device);
    }
    stream_ = *device_->CreateStream();
    bytes_ = *device_->Allocate(16, MemoryKind::kDevice, "a");
  }
  std::vector<uint8_t> Read(const void* from) {
    std::vector<uint8_t> host(16);
    stream_->CopyToHost(host.data(), from, 16);
    EXPECT_EQ(stream_->Synchronize(), absl::OkStatus());
    return host;
  }

  std::unique_ptr<Device> device_;
  std::unique_ptr<Stream> stream_;
  Buffer bytes_;
};
INSTANTIATE_TEST_SUITE_P(Devices, StreamWatchTest, testing::Values("eager", "lazy", "cuda"),
                         [](const auto& info) { return std::string(info.param); });

TEST_P(StreamWatchTest, IsAskedWhenTheWorkHasCompleted) {
  CountingWatch watch;
  stream_->Watch(watch);
  stream_->Watch(watch);  // changes nothing
  stream_->Fill(bytes_.data(), 7, 16);
  EXPECT_EQ(stream_->Synchronize(), absl::OkStatus());
  EXPECT_GE(watch.num_checks, 1);
  watch.status = absl::DataLossError("rank 3 did not come");
  EXPECT_EQ(stream_->Synchronize(), watch.status) << "work has completed, and was wrong";
  watch.status = absl::OkStatus();
  EXPECT_EQ(stream_->Synchronize(), absl::DataLossError("rank 3 did not come")) << "it is the stream's error";
}

TEST_P(StreamWatchTest, EndsWithTheWatchOrTheStream) {
  {
    CountingWatch watch;
    watch.status = absl::DataLossError("not asked");
    stream_->Watch(watch);
  }
  CountingWatch moved, kept;
  stream_->Watch(moved);
  stream_->Watch(kept);
  auto other = *device_->CreateStream();
  other->Watch(moved);
  stream_->Fill(bytes_.data(), 7, 16);
  EXPECT_EQ(stream_->Synchronize(), absl::OkStatus());
  EXPECT_EQ(moved.num_checks, 0);
  EXPECT_GE(kept.num_checks, 1);
  other.reset();
  stream_->Watch(moved);
  EXPECT_EQ(stream_->Synchronize(), absl::OkStatus());
  EXPECT_GE(moved.num_checks, 1);
}

TEST_P(StreamWatchTest, RanksOfOneProcessShareTheirMemory) {
  stream_->Fill(bytes_.data(), 5, 16);
  ASSERT_EQ(stream_->Synchronize(), absl::OkStatus());
  const auto exported = device_->Export(bytes_);
  ASSERT_TRUE(exported.ok()) << exported.status();
  EXPECT_THAT(std::string(device_->Import("nonsense").status().message()), HasSubstr("exports memory in 8 bytes"));
  if (device_->kind() == DeviceKind::kCpu) {
    const auto imported = device_->Import(*exported);
    ASSERT_TRUE(imported.ok()) << imported.status();
    EXPECT_EQ(Read(imported->get()), std::vector<uint8_t>(16, 5));
    return;
  }
  const absl::Status refused = device_->Import(*exported).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(refused.message()), HasSubstr("threads of one process share"));
  const auto other = CreateCudaDevice({.ordinal = 1});
  if (!other.ok()) GTEST_SKIP() << other.status().message();
  const auto imported = (*other)->Import(*exported);
  ASSERT_TRUE(imported.ok()) << imported.status();
  EXPECT_EQ(Read(imported->get()), std::vector<uint8_t>(16, 5));
}

TEST_P(StreamWatchTest, FreesAreCounted) {
  const int64_t before = device_->num_frees();
  Buffer moved = *device_->Allocate(64, MemoryKind::kHost, "a");
  Buffer target = std::move(moved);
  EXPECT_EQ(device_->num_frees(), before);
  target = Buffer();
  EXPECT_EQ(device_->num_frees(), before + 1);
}

TEST_P(StreamWatchTest, AGraphRepeatsWhatWasCaptured) {
  const Buffer copy = *device_->Allocate(16, MemoryKind::kDevice, "b"),
               host = *device_->Allocate(16, MemoryKind::kHost, "c");
  if (device_->kind() == DeviceKind::kCpu) {
    EXPECT_EQ(stream_->BeginCapture().code(), absl::StatusCode::kUnimplemented);
    return;
  }
  stream_->Fill(bytes_.data(), 1, 16);
  stream_->Fill(copy.data(), 2, 16);
  ASSERT_EQ(stream_->BeginCapture(), absl::OkStatus());
  stream_->CopyOnDevice(copy.data(), bytes_.data(), 16);
  stream_->CopyToHost(host.data(), copy.data(), 16);
  stream_->Fill(bytes_.data(), 9, 16);
  const auto graph = stream_->EndCapture();
  ASSERT_TRUE(graph.ok()) << graph.status();
  EXPECT_EQ(Read(copy.data()), std::vector<uint8_t>(16, 2)) << "capturing runs nothing";
  for (const uint8_t value : {3, 4}) {
    stream_->Fill(bytes_.data(), value, 16);
    stream_->LaunchGraph(**graph);
    EXPECT_EQ(Read(bytes_.data()), std::vector<uint8_t>(16, 9));
    EXPECT_EQ(Read(copy.data()), std::vector<uint8_t>(16, value));
    EXPECT_EQ(host.as<uint8_t>()[15], value);
  }
}

TEST_P(StreamWatchTest, AGraphHoldsNoCopyFromTheHost) {
  if (device_->kind() == DeviceKind::kCpu) GTEST_SKIP() << "no graphs on the CPU";
  ASSERT_EQ(stream_->BeginCapture(), absl::OkStatus());
  const std::vector<uint8_t> host(16, 1);
  stream_->CopyToDevice(bytes_.data(), host.data(), 16);
  const auto graph = stream_->EndCapture();
  EXPECT_EQ(graph.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(graph.status().message()), HasSubstr("a graph cannot hold a copy of 16 bytes"));
  EXPECT_EQ(stream_->Synchronize(), graph.status());
}

}  // namespace
}  // namespace tokenferry

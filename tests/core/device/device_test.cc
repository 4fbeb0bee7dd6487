// The conformance suite of Device: what device.h promises, for each way to run on a CPU.
#include "core/device/device.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>
#include <numeric>
#include <vector>

#include "core/device/cpu_device.h"
#include "tests/core/device/device_test_ops.h"

namespace tokenferry {
namespace {

using testing::HasSubstr;

struct Mode {
  const char* name;
  CpuExecution execution;
  CpuMemory memory;
};

class DeviceTest : public testing::TestWithParam<Mode> {
 protected:
  void SetUp() override {
    device_ = CreateCpuDevice({.num_threads = 2, .execution = GetParam().execution, .memory = GetParam().memory});
    stream_ = NewStream();
  }

  std::unique_ptr<Stream> NewStream() { return *device_->CreateStream(); }
  std::unique_ptr<Event> NewEvent() { return *device_->CreateEvent(); }
  Buffer NewBuffer(size_t num_bytes, MemoryKind kind = MemoryKind::kDevice) {
    return *device_->Allocate(num_bytes, kind, "test");
  }
  Buffer NewNumbers(const std::vector<uint32_t>& values) {
    Buffer buffer = NewBuffer(values.size() * 4);
    stream_->CopyToDevice(buffer.data(), values.data(), values.size() * 4);
    return buffer;
  }
  std::vector<uint32_t> Read(Stream& stream, const Buffer& buffer) {
    std::vector<uint32_t> values(buffer.num_bytes() / 4);
    stream.CopyToHost(values.data(), buffer.data(), buffer.num_bytes());
    EXPECT_TRUE(stream.Synchronize().ok());
    return values;
  }
  static void Launch(Stream& stream, const Buffer& x, uint32_t factor, uint32_t addend,
                     std::atomic<int>* num_runs = nullptr) {
    stream.Launch(kMulAdd, {x.as<uint32_t>(), static_cast<int64_t>(x.num_bytes() / 4), factor, addend, num_runs});
  }

  std::unique_ptr<Device> device_;
  std::unique_ptr<Stream> stream_;
};

std::vector<uint32_t> Iota(size_t n) {
  std::vector<uint32_t> values(n);
  std::iota(values.begin(), values.end(), 1u);
  return values;
}

TEST_P(DeviceTest, CopiesGoThereAndBack) {
  for (size_t n : {1, 2, 1023, 1024, 1025, 70001}) {
    const auto values = Iota(n);
    const Buffer a = NewNumbers(values);
    const Buffer b = NewBuffer(n * 4);
    const Buffer host = NewBuffer(n * 4, MemoryKind::kHost);
    stream_->CopyOnDevice(b.data(), a.data(), n * 4);
    stream_->CopyOnDevice(host.data(), b.data(), n * 4);  // kinds may differ
    ASSERT_TRUE(stream_->Synchronize().ok());
    EXPECT_EQ(std::vector<uint32_t>(host.as<uint32_t>(), host.as<uint32_t>() + n), values);
    EXPECT_EQ(Read(*stream_, b), values);
  }
}

TEST_P(DeviceTest, SourceOfCopyToDeviceMayBeReusedAtOnce) {
  std::vector<uint32_t> values = Iota(5000);
  const Buffer a = NewNumbers(values);
  std::fill(values.begin(), values.end(), 0xFFFFFFFFu);
  EXPECT_EQ(Read(*stream_, a), Iota(5000));
}

TEST_P(DeviceTest, FillsTouchTheirRangeOnly) {
  const Buffer a = NewNumbers(Iota(8));
  stream_->Fill(a.as<uint32_t>() + 2, 0xAB, 3 * 4);
  EXPECT_EQ(Read(*stream_, a), (std::vector<uint32_t>{1, 2, 0xABABABAB, 0xABABABAB, 0xABABABAB, 6, 7, 8}));
}

TEST_P(DeviceTest, ZeroBytesDoNothing) {
  const Buffer none = NewBuffer(0);
  EXPECT_EQ(none.data(), nullptr);
  EXPECT_EQ(none.num_bytes(), 0u);
  stream_->CopyToDevice(none.data(), nullptr, 0);
  stream_->CopyToHost(nullptr, none.data(), 0);
  stream_->CopyOnDevice(none.data(), none.data(), 0);
  stream_->Fill(none.data(), 1, 0);
  stream_->Launch(kMulAdd, {});
  EXPECT_TRUE(stream_->Synchronize().ok());
  EXPECT_EQ(device_->allocated_bytes(), 0u);
}

TEST_P(DeviceTest, WorkOfAStreamRunsInOrder) {
  const Buffer a = NewNumbers(std::vector<uint32_t>(2500, 1));
  Launch(*stream_, a, 3, 1);  // 4
  Launch(*stream_, a, 5, 2);  // 22
  const Buffer b = NewBuffer(a.num_bytes());
  stream_->CopyOnDevice(b.data(), a.data(), a.num_bytes());
  stream_->Fill(a.data(), 0, a.num_bytes());
  Launch(*stream_, a, 7, 9);  // 9
  Launch(*stream_, b, 2, 0);  // 44
  EXPECT_EQ(Read(*stream_, a), std::vector<uint32_t>(2500, 9));
  EXPECT_EQ(Read(*stream_, b), std::vector<uint32_t>(2500, 44));
}

TEST_P(DeviceTest, ArgumentsAreCopiedAtLaunch) {
  const Buffer a = NewNumbers({10});
  MulAddArgs args{a.as<uint32_t>(), 1, 2, 1, nullptr};
  stream_->Launch(kMulAdd, args);
  args = {};
  EXPECT_EQ(Read(*stream_, a), std::vector<uint32_t>{21});
}

TEST_P(DeviceTest, EventsOrderStreams) {
  const Buffer a = NewNumbers({1});
  auto filled = NewEvent(), there = NewEvent(), back = NewEvent();
  auto other = NewStream(), third = NewStream();
  stream_->Record(*filled);
  other->Wait(*filled);
  for (uint32_t round = 0; round < 5; ++round) {  // ping-pong, with reused events
    Launch(*other, a, 3, 1);
    other->Record(*there);
    third->Wait(*there);
    Launch(*third, a, 5, 2);
    third->Record(*back);
    other->Wait(*back);
  }
  uint32_t expected = 1;
  for (int round = 0; round < 5; ++round) expected = (expected * 3 + 1) * 5 + 2;
  EXPECT_EQ(Read(*other, a), std::vector<uint32_t>{expected});
}

TEST_P(DeviceTest, WaitIsForThePointMarkedThen) {
  std::atomic<int> num_late{0};  // the buffers' end still runs what is queued
  const Buffer a = NewNumbers({1}), b = NewBuffer(4);
  auto event = NewEvent();
  auto other = NewStream();
  Launch(*stream_, a, 1, 1);
  stream_->Record(*event);
  other->Wait(*event);
  Launch(*stream_, b, 1, 1, &num_late);
  stream_->Record(*event);  // later: `other` does not wait for this
  ASSERT_TRUE(other->Synchronize().ok());
  EXPECT_EQ(num_late.load(), GetParam().execution == CpuExecution::kLazy ? 0 : 1);
  EXPECT_EQ(Read(*other, a), std::vector<uint32_t>{2});
}

TEST_P(DeviceTest, AnEventOutlivesItsStream) {
  const Buffer a = NewNumbers({1});
  ASSERT_TRUE(stream_->Synchronize().ok());
  auto event = NewEvent();
  {
    auto other = NewStream();
    Launch(*other, a, 4, 2);
    other->Record(*event);
  }
  stream_->Wait(*event);
  EXPECT_EQ(Read(*stream_, a), std::vector<uint32_t>{6});
}

TEST_P(DeviceTest, WaitingForAnUnrecordedEventIsAnErrorThatSticks) {
  const Buffer a = NewNumbers({1});
  auto event = NewEvent(), before = NewEvent(), after = NewEvent();
  std::atomic<int> num_before{0}, num_after{0};
  Launch(*stream_, a, 1, 1, &num_before);
  stream_->Record(*before);
  stream_->Wait(*event);
  Launch(*stream_, a, 1, 1, &num_after);
  stream_->Record(*after);
  stream_->Record(*event);  // too late for the wait
  for (int i = 0; i < 3; ++i) {
    const absl::Status status = stream_->Synchronize();
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_THAT(std::string(status.message()), HasSubstr("never recorded"));
    Launch(*stream_, a, 1, 1, &num_after);
  }
  EXPECT_EQ(num_before.load(), 1) << "work before the error runs";
  EXPECT_EQ(num_after.load(), 0) << "work after the error is dropped";

  auto healthy = NewStream(), infected = NewStream();
  healthy->Wait(*before);
  EXPECT_EQ(Read(*healthy, a), std::vector<uint32_t>{2});
  infected->Wait(*after);
  Launch(*infected, a, 1, 1, &num_after);
  EXPECT_EQ(infected->Synchronize(), stream_->Synchronize());
  EXPECT_EQ(num_after.load(), 0);
}

TEST_P(DeviceTest, FreeCompletesPendingWork) {
  std::atomic<int> num_runs{0};
  auto other = NewStream();
  const Buffer result = NewNumbers({0});
  {
    const Buffer a = NewNumbers({20});
    auto ready = NewEvent();
    stream_->Record(*ready);
    other->Wait(*ready);
    Launch(*other, a, 2, 2, &num_runs);
    other->CopyOnDevice(result.data(), a.data(), 4);
  }
  EXPECT_EQ(num_runs.load(), 1);
  EXPECT_EQ(Read(*other, result), std::vector<uint32_t>{42});
}

TEST_P(DeviceTest, DestroyedStreamCompletesItsWork) {
  std::atomic<int> num_runs{0};
  const Buffer a = NewNumbers({1});
  Launch(*stream_, a, 1, 1, &num_runs);
  stream_.reset();
  EXPECT_EQ(num_runs.load(), 1);
}

TEST_P(DeviceTest, CountsBytes) {
  EXPECT_EQ(device_->allocated_bytes(), 0u);
  Buffer a = NewBuffer(100), b = NewBuffer(28, MemoryKind::kHost);
  EXPECT_EQ(device_->allocated_bytes(), 128u);
  a = Buffer();
  EXPECT_EQ(device_->allocated_bytes(), 28u);
  Buffer c = std::move(b);
  EXPECT_EQ(b.data(), nullptr);
  EXPECT_EQ(c.kind(), MemoryKind::kHost);
  EXPECT_EQ(device_->allocated_bytes(), 28u);
  c = NewBuffer(7);
  EXPECT_EQ(device_->allocated_bytes(), 7u);
  EXPECT_EQ(device_->peak_allocated_bytes(), 128u);
}

TEST_P(DeviceTest, AssignmentFreesTheOldAndEmptiesTheSource) {
  Buffer a = NewNumbers({1, 2}), b = NewNumbers({3, 4, 5});
  void* const b_data = b.data();
  a = std::move(b);
  EXPECT_EQ(a.data(), b_data);
  EXPECT_EQ(b.data(), nullptr);
  EXPECT_EQ(b.num_bytes(), 0u);
  EXPECT_EQ(device_->allocated_bytes(), 12u);
  Buffer& alias = a;
  a = std::move(alias);
  EXPECT_EQ(Read(*stream_, a), (std::vector<uint32_t>{3, 4, 5}));
}

TEST_P(DeviceTest, TooMuchMemoryIsAnErrorThatNamesTheBuffer) {
  for (size_t num_bytes : {std::numeric_limits<size_t>::max(), std::numeric_limits<size_t>::max() - 100}) {
    const auto buffer = device_->Allocate(num_bytes, MemoryKind::kDevice, "kv cache");
    ASSERT_EQ(buffer.status().code(), absl::StatusCode::kResourceExhausted);
    EXPECT_THAT(std::string(buffer.status().message()), HasSubstr("kv cache"));
    EXPECT_THAT(std::string(buffer.status().message()), HasSubstr(std::to_string(num_bytes)));
    EXPECT_EQ(device_->allocated_bytes(), 0u);
  }
}

TEST_P(DeviceTest, MemoryIsReusedAndAlignedAndApart) {
  // Frees in another order than allocations, so that gaps are split and joined.
  std::vector<Buffer> live;
  for (int round = 0; round < 3; ++round) {
    for (uint32_t i = 1; i <= 20; ++i) {
      live.push_back(NewBuffer(i * 1000));
      EXPECT_EQ(reinterpret_cast<uintptr_t>(live.back().data()) % 64, 0u);
      stream_->Fill(live.back().data(), static_cast<uint8_t>(i), i * 1000);
    }
    for (size_t i = 0; i < 20; ++i) {
      const size_t n = live[i].num_bytes();
      std::vector<uint8_t> bytes(n);
      stream_->CopyToHost(bytes.data(), live[i].data(), n);
      ASSERT_TRUE(stream_->Synchronize().ok());
      EXPECT_EQ(bytes, std::vector<uint8_t>(n, static_cast<uint8_t>(i + 1)));
    }
    for (size_t i = 0; i < live.size(); i += 2) live[i] = Buffer();
    for (size_t i = 1; i < live.size(); i += 2) live[i] = Buffer();
    live.clear();
    EXPECT_EQ(device_->allocated_bytes(), 0u);
  }
}

INSTANTIATE_TEST_SUITE_P(Cpu, DeviceTest,
                         testing::Values(Mode{"eager", CpuExecution::kEager, CpuMemory::kPlain},
                                         Mode{"lazy", CpuExecution::kLazy, CpuMemory::kPlain},
                                         Mode{"eager_trap", CpuExecution::kEager, CpuMemory::kTrap},
                                         Mode{"lazy_trap", CpuExecution::kLazy, CpuMemory::kTrap}),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace tokenferry

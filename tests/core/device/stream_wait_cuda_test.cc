// Waiting for work of a GPU that does not end: a host function on the stream blocks until the test lets it go.
#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <atomic>
#include <thread>
#include <vector>

#include "absl/time/clock.h"
#include "core/device/cuda_device.h"
#include "core/host/clock.h"

namespace tokenferry {
namespace {

struct Gate {
  std::atomic<bool> is_open{false};
  static void Pass(void* gate) {
    while (!static_cast<Gate*>(gate)->is_open.load()) std::this_thread::yield();
  }
};

class LateWatch : public StreamWatch {
 public:
  absl::Status Check() override {
    return ++num_checks < 100 ? absl::OkStatus() : absl::UnavailableError("rank 3 has gone");
  }
  int num_checks = 0;
};

class StreamWaitTest : public testing::Test {
 protected:
  void SetUp() override {
    auto device = CreateCudaDevice({});
    if (!device.ok()) GTEST_SKIP() << device.status().message();
    device_ = *std::move(device);
    stream_ = *device_->CreateStream();
    buffer_ = *device_->Allocate(16, MemoryKind::kDevice, "a");
  }
  void Block() {
    ASSERT_EQ(cudaLaunchHostFunc(static_cast<cudaStream_t>(stream_->native()), Gate::Pass, &gate_), cudaSuccess);
  }
  Gate gate_;  // outlives the stream
  std::unique_ptr<Device> device_;
  std::unique_ptr<Stream> stream_;
  Buffer buffer_;
};

TEST_F(StreamWaitTest, WorkThatEndsIsWaitedFor) {
  LateWatch watch;
  watch.num_checks = -1'000'000'000;  // far from late
  stream_->SetWait({.timeout = absl::Minutes(5), .watch = &watch});
  Block();
  stream_->Fill(buffer_.data(), 7, 16);
  std::vector<uint8_t> host(16);
  stream_->CopyToHost(host.data(), buffer_.data(), 16);
  std::thread opener([&] {
    absl::SleepFor(absl::Milliseconds(50));
    gate_.is_open.store(true);
  });
  EXPECT_EQ(stream_->Synchronize(), absl::OkStatus());
  opener.join();
  EXPECT_EQ(host, std::vector<uint8_t>(16, 7));
  EXPECT_EQ(cudaGetLastError(), cudaSuccess) << "polling leaves no error for the next launch";
}

TEST_F(StreamWaitTest, TheWatchEndsTheWait) {
  LateWatch watch;
  stream_->SetWait({.watch = &watch});
  Block();
  EXPECT_EQ(stream_->Synchronize(), absl::UnavailableError("rank 3 has gone"));
  EXPECT_EQ(stream_->Synchronize(), absl::UnavailableError("rank 3 has gone")) << "at once";
  EXPECT_EQ(watch.num_checks, 100);
  stream_->Fill(buffer_.data(), 7, 16);  // dropped
  gate_.is_open.store(true);
}

TEST_F(StreamWaitTest, TheTimeoutEndsTheWait) {
  stream_->SetWait({.timeout = absl::Milliseconds(100)});
  Block();
  const Stopwatch watch;
  EXPECT_EQ(stream_->Synchronize().code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_GE(watch.elapsed(), absl::Milliseconds(100));
  gate_.is_open.store(true);
}

// More than CUDA holds: it would keep the host in a launch.
TEST_F(StreamWaitTest, ManyLaunchesHaveTheTimeoutToo) {
  stream_->SetWait({.timeout = absl::Milliseconds(100)});
  Block();
  const Stopwatch watch;
  for (int i = 0; i < 5000; ++i) stream_->Fill(buffer_.data(), 7, 16);
  EXPECT_EQ(stream_->Synchronize().code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_LT(watch.elapsed(), absl::Seconds(30));
  gate_.is_open.store(true);
}

// To memory that is not pinned: CUDA itself would wait without an end.
TEST_F(StreamWaitTest, ACopyToTheHostHasTheTimeoutToo) {
  stream_->SetWait({.timeout = absl::Milliseconds(100)});
  Block();
  std::vector<uint8_t> host(16);
  stream_->CopyToHost(host.data(), buffer_.data(), host.size());
  EXPECT_EQ(stream_->Synchronize().code(), absl::StatusCode::kDeadlineExceeded);
  gate_.is_open.store(true);
}

// Freeing waits for the streams of the device, within their limits; what may still be used stays.
TEST_F(StreamWaitTest, FreeingHasTheTimeoutToo) {
  stream_->SetWait({.timeout = absl::Milliseconds(100)});
  Block();
  buffer_ = Buffer();
  EXPECT_EQ(stream_->Synchronize().code(), absl::StatusCode::kDeadlineExceeded);
  gate_.is_open.store(true);
}

// Larger than the staging memory: such a copy waits for the stream.
TEST_F(StreamWaitTest, ACopyThatWaitsHasTheTimeoutToo) {
  const Buffer large = *device_->Allocate(16 << 20, MemoryKind::kDevice, "large");
  const std::vector<uint8_t> bytes(large.num_bytes(), 3);
  stream_->SetWait({.timeout = absl::Milliseconds(100)});
  Block();
  for (int i = 0; i < 5; ++i) stream_->CopyToDevice(large.data(), bytes.data(), 1 << 20);
  EXPECT_EQ(stream_->Synchronize().code(), absl::StatusCode::kDeadlineExceeded);
  gate_.is_open.store(true);
}

}  // namespace
}  // namespace tokenferry

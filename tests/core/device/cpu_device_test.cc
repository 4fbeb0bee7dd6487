// What is special about the CPU device's modes.
#include "core/device/cpu_device.h"

#include <gtest/gtest.h>

#include <thread>
#include <vector>

#include "tests/core/device/device_test_ops.h"

namespace tokenferry {
namespace {

std::unique_ptr<Device> Create(CpuExecution execution, CpuMemory memory, KernelSet kernels = KernelSet::kFast) {
  return CreateCpuDevice({.num_threads = 2, .execution = execution, .memory = memory, .kernels = kernels});
}

TEST(CpuDeviceTest, LazyWorkHasNotRunBeforeSynchronize) {
  auto device = Create(CpuExecution::kLazy, CpuMemory::kPlain);
  auto stream = *device->CreateStream(), other = *device->CreateStream();
  const Buffer a = *device->Allocate(4, MemoryKind::kHost, "a");
  *a.as<uint32_t>() = 1;  // legal: nothing is enqueued yet
  std::atomic<int> num_runs{0};
  uint32_t result = 77;
  stream->Launch(kMulAdd, {a.as<uint32_t>(), 1, 2, 3, &num_runs});
  stream->CopyToHost(&result, a.data(), 4);
  stream->Fill(a.data(), 0, 4);
  ASSERT_TRUE(other->Synchronize().ok());  // needs nothing of the first stream
  EXPECT_EQ(num_runs.load(), 0);
  EXPECT_EQ(result, 77u);
  EXPECT_EQ(*a.as<uint32_t>(), 1u);
  ASSERT_TRUE(stream->Synchronize().ok());
  EXPECT_EQ(num_runs.load(), 1);
  EXPECT_EQ(result, 5u);
  EXPECT_EQ(*a.as<uint32_t>(), 0u);
}

TEST(CpuDeviceTest, EagerWorkHasRunWhenLaunchReturns) {
  auto device = Create(CpuExecution::kEager, CpuMemory::kPlain);
  auto stream = *device->CreateStream();
  const Buffer a = *device->Allocate(4, MemoryKind::kHost, "a");
  *a.as<uint32_t>() = 1;
  stream->Launch(kMulAdd, {a.as<uint32_t>(), 1, 2, 3, nullptr});
  EXPECT_EQ(*a.as<uint32_t>(), 5u);
}

TEST(CpuDeviceTest, WaitRunsOnlyTheStreamsNeededAndOnlyToThePointNeeded) {
  auto device = Create(CpuExecution::kLazy, CpuMemory::kPlain);
  std::vector<std::unique_ptr<Stream>> streams;
  for (int i = 0; i < 4; ++i) streams.push_back(*device->CreateStream());
  auto event01 = *device->CreateEvent(), event12 = *device->CreateEvent();
  std::atomic<int> runs[4] = {}, late{0};
  const Buffer a = *device->Allocate(64, MemoryKind::kDevice, "a");
  auto launch = [&](int stream, std::atomic<int>* counter) {
    streams[stream]->Launch(kMulAdd, {a.as<uint32_t>(), 16, 1, 1, counter});
  };
  streams[0]->Fill(a.data(), 0, 64);
  launch(0, &runs[0]);
  streams[0]->Record(*event01);
  launch(0, &late);
  streams[1]->Wait(*event01);
  launch(1, &runs[1]);
  streams[1]->Record(*event12);
  launch(1, &late);
  streams[2]->Wait(*event12);
  launch(2, &runs[2]);
  launch(3, &runs[3]);
  ASSERT_TRUE(streams[2]->Synchronize().ok());
  EXPECT_EQ(runs[0].load(), 1);
  EXPECT_EQ(runs[1].load(), 1);
  EXPECT_EQ(runs[2].load(), 1);
  EXPECT_EQ(runs[3].load(), 0);
  EXPECT_EQ(late.load(), 0);
}

struct WhichArgs {
  int* which;
};
constexpr Op<WhichArgs> kBoth = {.name = "both",
                                 .reference = [](const WhichArgs& a) { *a.which = 1; },
                                 .cpu = [](const WhichArgs& a, CpuContext&) { *a.which = 2; }};
constexpr Op<WhichArgs> kReferenceOnly = {
    .name = "reference_only", .reference = [](const WhichArgs& a) { *a.which = 1; }, .cpu = nullptr};

TEST(CpuDeviceTest, KernelSetsChooseTheKernel) {
  for (const auto& [kernels, expected] : {std::pair{KernelSet::kFast, 2}, std::pair{KernelSet::kReference, 1}}) {
    for (CpuExecution execution : {CpuExecution::kEager, CpuExecution::kLazy}) {
      auto device = Create(execution, CpuMemory::kPlain, kernels);
      auto stream = *device->CreateStream();
      int which = 0, which_alone = 0;
      stream->Launch(kBoth, {&which});
      stream->Launch(kReferenceOnly, {&which_alone});
      ASSERT_TRUE(stream->Synchronize().ok());
      EXPECT_EQ(which, expected);
      EXPECT_EQ(which_alone, 1);
    }
  }
}

uint8_t ReadOutside(const Buffer& buffer) { return *static_cast<const volatile uint8_t*>(buffer.data()); }

// Runs an operation first: access must be taken away again after it.
uint8_t RunThenReadOutside(CpuMemory memory, MemoryKind kind) {
  auto device = Create(CpuExecution::kEager, memory);
  auto stream = *device->CreateStream();
  const Buffer a = *device->Allocate(4, kind, "a");
  stream->Fill(a.data(), 42, 4);
  stream->Launch(kMulAdd, {a.as<uint32_t>(), 1, 1, 0, nullptr});
  if (!stream->Synchronize().ok()) return 0;
  return ReadOutside(a);
}

TEST(CpuDeviceTest, PlainMemoryAndHostMemoryCanBeRead) {
  EXPECT_EQ(RunThenReadOutside(CpuMemory::kPlain, MemoryKind::kDevice), 42);
  EXPECT_EQ(RunThenReadOutside(CpuMemory::kPlain, MemoryKind::kHost), 42);
  EXPECT_EQ(RunThenReadOutside(CpuMemory::kTrap, MemoryKind::kHost), 42);
}

TEST(CpuDeviceDeathTest, TrapModeStopsAccessOutsideOperations) {
  testing::FLAGS_gtest_death_test_style = "threadsafe";  // the pool has threads
  EXPECT_DEATH(RunThenReadOutside(CpuMemory::kTrap, MemoryKind::kDevice), "");
}

TEST(CpuDeviceDeathTest, TrapModeStopsAccessOfNewMemory) {
  testing::FLAGS_gtest_death_test_style = "threadsafe";
  EXPECT_DEATH(
      {
        auto device = Create(CpuExecution::kLazy, CpuMemory::kTrap);
        ReadOutside(*device->Allocate(4, MemoryKind::kDevice, "a"));
      },
      "");
}

TEST(CpuDeviceDeathTest, BufferThatOutlivesItsDeviceIsCaught) {
  testing::FLAGS_gtest_death_test_style = "threadsafe";
  EXPECT_DEATH(
      {
        auto device = Create(CpuExecution::kEager, CpuMemory::kPlain);
        const Buffer a = *device->Allocate(4, MemoryKind::kDevice, "a");
        device.reset();
      },
      "allocated_bytes_");
}

TEST(CpuDeviceTest, NewTrapMemoryIsPoisoned) {
  auto device = Create(CpuExecution::kEager, CpuMemory::kTrap);
  auto stream = *device->CreateStream();
  for (int round = 0; round < 2; ++round) {
    const Buffer a = *device->Allocate(8, MemoryKind::kDevice, "a");
    uint64_t value = 0;
    stream->CopyToHost(&value, a.data(), 8);
    EXPECT_EQ(value, 0xA5A5A5A5A5A5A5A5u);
    stream->Fill(a.data(), 0, 8);
  }
}

// An operation opens the arena of its own device alone, and an arena knows nothing of others who keep its memory.
TEST(CpuDeviceTest, TrapMemoryIsNotShared) {
  auto device = Create(CpuExecution::kEager, CpuMemory::kTrap);
  const Buffer a = *device->Allocate(8, MemoryKind::kDevice, "a");
  const absl::Status refused = device->Export(a).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_NE(refused.message().find("trap mode"), absl::string_view::npos) << refused;
}

// Ranks as threads: each has its device, and one's operations open only its own memory.
TEST(CpuDeviceTest, DevicesOfOneProcessAreIndependent) {
  constexpr int kNumRanks = 3;
  std::vector<std::thread> ranks;
  std::vector<uint32_t> results(kNumRanks);
  for (int rank = 0; rank < kNumRanks; ++rank) {
    ranks.emplace_back([rank, &results] {
      auto device = Create(rank % 2 == 0 ? CpuExecution::kLazy : CpuExecution::kEager, CpuMemory::kTrap);
      auto stream = *device->CreateStream();
      const Buffer a = *device->Allocate(40000, MemoryKind::kDevice, "a");
      stream->Fill(a.data(), 0, 40000);
      for (int i = 0; i < 200; ++i) {
        stream->Launch(kMulAdd, {a.as<uint32_t>(), 10000, 3, static_cast<uint32_t>(rank), nullptr});
        if (i % 10 != 0) continue;
        EXPECT_EQ(stream->Synchronize(), absl::OkStatus());
      }
      stream->CopyToHost(&results[rank], a.as<uint32_t>() + 9999, 4);
      ASSERT_TRUE(stream->Synchronize().ok());
    });
  }
  for (auto& rank : ranks) rank.join();
  for (int rank = 0; rank < kNumRanks; ++rank) {
    uint32_t expected = 0;
    for (int i = 0; i < 200; ++i) expected = expected * 3 + rank;
    EXPECT_EQ(results[rank], expected);
  }
}

class CountingWatch : public StreamWatch {
 public:
  absl::Status Check() override {
    return ++num_checks == fails_at ? absl::UnavailableError("rank 3 has gone") : absl::OkStatus();
  }
  int num_checks = 0;
  int fails_at = 0;  // never
};

// Three pieces of work; the watch ends the wait before the second.
TEST(CpuDeviceTest, AWatchEndsAWaitAndTheStream) {
  auto device = Create(CpuExecution::kLazy, CpuMemory::kPlain);
  CountingWatch watch;
  auto stream = *device->CreateStream();
  const Buffer a = *device->Allocate(4, MemoryKind::kHost, "a");
  *a.as<uint32_t>() = 0;
  std::atomic<int> num_runs{0};
  const auto launch_three = [&] {
    for (int i = 0; i < 3; ++i) stream->Launch(kMulAdd, {a.as<uint32_t>(), 1, 1, 1, &num_runs});
  };
  stream->SetWait({.watch = &watch});
  launch_three();
  EXPECT_EQ(stream->Synchronize(), absl::OkStatus());
  EXPECT_EQ(num_runs.load(), 3);
  EXPECT_EQ(watch.num_checks, 4) << "before each piece of work, and in the end";
  watch.fails_at = 6;
  launch_three();
  EXPECT_EQ(stream->Synchronize(), absl::UnavailableError("rank 3 has gone"));
  EXPECT_EQ(num_runs.load(), 4);
  launch_three();  // dropped, as after any error
  EXPECT_EQ(stream->Synchronize(), absl::UnavailableError("rank 3 has gone"));
  EXPECT_EQ(num_runs.load(), 4);
  EXPECT_EQ(*a.as<uint32_t>(), 4u);
}

TEST(CpuDeviceTest, AWaitHasATimeout) {
  auto device = Create(CpuExecution::kLazy, CpuMemory::kPlain);
  auto stream = *device->CreateStream();
  const Buffer a = *device->Allocate(4, MemoryKind::kHost, "a");
  stream->SetWait({.timeout = absl::ZeroDuration()});
  EXPECT_EQ(stream->Synchronize(), absl::OkStatus()) << "nothing to wait for";
  stream->Fill(a.data(), 0, 4);
  const absl::Status status = stream->Synchronize();
  EXPECT_EQ(status.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(status.message(),
            absl::StrCat("the work of a stream on ", device->ToString(), " has not completed within 0"));
  auto other = *device->CreateStream();
  other->SetWait({.timeout = absl::ZeroDuration()});
  other->SetWait({});
  other->Fill(a.data(), 0, 4);
  EXPECT_EQ(other->Synchronize(), absl::OkStatus());
}

TEST(CpuDeviceTest, HasNoNativeStream) {
  auto device = Create(CpuExecution::kEager, CpuMemory::kPlain);
  EXPECT_EQ((*device->CreateStream())->native(), nullptr);
}

}  // namespace
}  // namespace tokenferry

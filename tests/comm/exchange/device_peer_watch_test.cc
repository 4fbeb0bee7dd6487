// How watches of waits on a GPU end, and mappings of memory that such a wait still reads. Skipped where there is no
// CUDA device.
#include "comm/exchange/peer/device_peer_watch.h"

#include <gtest/gtest.h>

#include <atomic>

#include "core/device/cuda_device.h"

namespace tokenferry {
namespace {

// One of two ranks, which counts how often it is asked for the other.
class FirstOfTwo : public PeerGroup {
 public:
  RankId rank() const override { return RankId(0); }
  int num_ranks() const override { return 2; }
  std::string host(RankId) const override { return "a"; }
  absl::Duration timeout() const override { return absl::Minutes(1); }
  absl::StatusOr<std::shared_ptr<PeerMemory>> Allocate(const CallSite&, int64_t) override { return None(); }
  absl::StatusOr<std::shared_ptr<PeerMemory>> Reserve(const CallSite&, int64_t) override { return None(); }
  absl::Status CheckAlive(RankId) const override {
    ++num_asked;
    return alive;
  }
  std::string ProcessStateOf(RankId) const override { return ""; }
  void AddWaitSeconds(RankId, double) override {}

  mutable int num_asked = 0;
  absl::Status alive;  // the other

 private:
  static absl::Status None() { return absl::UnimplementedError("not needed here"); }
};

TEST(DevicePeerWatchTest, IsNotAskedWhileItEnds) {
  const auto device = CreateCudaDevice({});
  if (!device.ok()) GTEST_SKIP() << device.status().message();
  FirstOfTwo peers;
  const auto stream = *(*device)->CreateStream();
  {
    DevicePeerWatch watch(peers);
    ASSERT_EQ(watch.Allocate(**device), absl::OkStatus());
    watch.Watch(*stream);
  }
  EXPECT_EQ(peers.num_asked, 0) << "its own buffers were being freed, for which the device waits for its streams";
  EXPECT_EQ(stream->Synchronize(), absl::OkStatus());
  DevicePeerWatch watch(peers);
  ASSERT_EQ(watch.Allocate(**device), absl::OkStatus());
  watch.Watch(*stream);
  EXPECT_EQ(stream->Synchronize(), absl::OkStatus());
  EXPECT_EQ(peers.num_asked, 1);
}

// More launches than CUDA lets be pending come after a wait for a rank that has gone: the host looks around all the
// same.
TEST(DevicePeerWatchTest, ARankThatHasGoneIsNamedWhileManyLaunchesArePending) {
  const auto device = CreateCudaDevice({});
  if (!device.ok()) GTEST_SKIP() << device.status().message();
  FirstOfTwo peers;
  peers.alive = absl::UnavailableError("its process is gone");
  const auto stream = *(*device)->CreateStream();
  DevicePeerWatch watch(peers);
  ASSERT_EQ(watch.Allocate(**device), absl::OkStatus());
  watch.Watch(*stream);
  // Its own flag, then the other's; the exchange under way, whether a wait gave up, nanoseconds of waits.
  const int64_t flags[kNumPeerStages * 2] = {1, 0}, words[] = {1, 0, 0, 0};
  const Buffer on_device = *(*device)->Allocate(sizeof(flags), MemoryKind::kDevice, "flags"),
               parts = *(*device)->Allocate(sizeof(PeerPart), MemoryKind::kDevice, "parts"),
               more = *(*device)->Allocate(sizeof(words), MemoryKind::kDevice, "words"),
               rows = *(*device)->Allocate(8, MemoryKind::kDevice, "rows");
  const PeerPart part{.flags = on_device.as<int64_t>()};
  stream->CopyToDevice(on_device.data(), flags, sizeof(flags));
  stream->CopyToDevice(parts.data(), &part, sizeof(part));
  stream->CopyToDevice(more.data(), words, sizeof(words));
  stream->Launch(kAwaitFlags, {.group = {parts.as<PeerPart>(), 0, 2, more.as<int64_t>(), more.as<int32_t>() + 2},
                               .layer = 2,
                               .step = 5,
                               .timeout_ns = absl::ToInt64Nanoseconds(absl::Hours(1)),
                               .report = watch.report(),
                               .seen = watch.seen(),
                               .wait_ns_per_rank = more.as<int64_t>() + 2});
  for (int i = 0; i < 3000; ++i) stream->Fill(rows.data(), 1, 8);
  const absl::Status status = stream->Synchronize();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << status;
  for (const char* words_of_it : {"layer 2, dispatch rows, step 5", "rank 0 waits for rank 1", "rank 1 has ended"}) {
    EXPECT_NE(status.message().find(words_of_it), absl::string_view::npos) << status;
  }
}

// Of another GPU of the process: letting go waits for the streams within their limits, and what a wait that has been
// given up still reads stays.
TEST(ImportedMemoryTest, IsLetGoOfWithinTheLimitsOfStreams) {
  const auto owner = CreateCudaDevice({}), other = CreateCudaDevice({.ordinal = 1});
  if (!other.ok()) GTEST_SKIP() << other.status().message();
  Buffer flags = *(*owner)->Allocate(kNumPeerStages * sizeof(int64_t), MemoryKind::kDevice, "flags");
  auto stream = *(*owner)->CreateStream();
  stream->Fill(flags.data(), 0, flags.num_bytes());
  ASSERT_EQ(stream->Synchronize(), absl::OkStatus());
  auto imported = (*other)->Import(*(*owner)->Export(flags));
  ASSERT_TRUE(imported.ok()) << imported.status();

  const PeerPart part{.flags = static_cast<int64_t*>(imported->get())};
  const int64_t words[] = {1, 0, 0};  // the exchange under way, whether a wait gave up, nanoseconds of waits
  const Buffer parts = *(*other)->Allocate(sizeof(part), MemoryKind::kDevice, "parts"),
               on_device = *(*other)->Allocate(sizeof(words), MemoryKind::kDevice, "words"),
               on_host = *(*other)->Allocate(sizeof(PeerWaitReport) + sizeof(int64_t), MemoryKind::kHost, "report");
  auto* const report = new (on_host.data()) PeerWaitReport;
  auto* const seen = reinterpret_cast<int64_t*>(report + 1);
  *seen = 0;
  auto waits = *(*other)->CreateStream();
  waits->CopyToDevice(parts.data(), &part, sizeof(part));
  waits->CopyToDevice(on_device.data(), words, sizeof(words));
  const PeerGroupView group{parts.as<PeerPart>(), 0, 1, on_device.as<int64_t>(), on_device.as<int32_t>() + 2};
  waits->Launch(kAwaitFlags, {.group = group,
                              .timeout_ns = absl::ToInt64Nanoseconds(absl::Hours(1)),
                              .report = report,
                              .seen = seen,
                              .wait_ns_per_rank = on_device.as<int64_t>() + 2});
  waits->SetWait({.timeout = absl::Milliseconds(100)});
  imported->reset();
  EXPECT_EQ(waits->Synchronize().code(), absl::StatusCode::kDeadlineExceeded);
  flags = Buffer();  // the wait reads them still

  std::atomic_ref<int64_t>(report->stop).store(1, std::memory_order_release);
  const auto again = CreateCudaDevice({.ordinal = 1});
  ASSERT_TRUE(again.ok()) << again.status();
  static_cast<void>((*again)->Allocate(1, MemoryKind::kDevice, "freed when all work of this GPU has completed"));
  EXPECT_EQ(std::atomic_ref<int64_t>(report->gave_up).load(std::memory_order_acquire), 1);
  EXPECT_TRUE((*again)->CreateStream().ok()) << "it read no memory that had been freed";
}

}  // namespace
}  // namespace tokenferry

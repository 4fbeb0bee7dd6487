// How watches of waits on a GPU end, and mappings of memory that such a wait still reads. Skipped where there is no
// CUDA device.
#include "comm/exchange/peer/device_peer_watch.h"

#include <gtest/gtest.h>

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
    return absl::OkStatus();
  }
  std::string ProcessStateOf(RankId) const override { return ""; }
  void AddWaitSeconds(RankId, double) override {}

  mutable int num_asked = 0;

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

}  // namespace
}  // namespace tokenferry

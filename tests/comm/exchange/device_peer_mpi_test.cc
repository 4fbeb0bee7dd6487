// Path peer on a CUDA device with ranks that are processes: memory that they map from each other.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/device/cuda_device.h"
#include "tests/comm/exchange/device_peer_case.h"
#include "tests/comm/transport/rank_group.h"
#include "tests/support/slack.h"

namespace tokenferry {
namespace {

TEST(DevicePeerMpiTest, OutputsAreThoseOfAllToAllV) {
  auto device = CreateCudaDevice({});
  if (!device.ok()) GTEST_SKIP() << device.status().message();
  RunProcesses(Backend::kMpi, absl::Seconds(20), [&](Transport& t) {
    for (uint32_t seed = 0; seed < 4 && !HasFailure(); ++seed) ExpectDevicePeerEqualsAllToAllV(t, **device, seed);
  });
}

TEST(DevicePeerMpiTest, ARankThatDoesNotComeIsNamed) {
  auto device = CreateCudaDevice({});
  if (!device.ok()) GTEST_SKIP() << device.status().message();
  RunProcesses(Backend::kMpi, Slack(absl::Seconds(5)), [&](Transport& t) {
    const DevicePeerCases cases = RandomDevicePeerCases(3, t.num_ranks());
    const DevicePeerCases::Step step{std::vector<int64_t>(t.num_ranks(), 4), 2, 0, false, 8};
    auto rank = DevicePeerRank::Create(t, **device, cases, DevicePeerRank::Path::kDevicePeer);
    ASSERT_TRUE(rank.ok()) << rank.status();
    EXPECT_EQ((*rank)->Run(step).status(), absl::OkStatus());
    if (t.rank() == RankId(0) && t.num_ranks() > 1) {
      const absl::Status status = (*rank)->Run(step).status();
      EXPECT_EQ(status.code(), absl::StatusCode::kDeadlineExceeded) << status;
      EXPECT_THAT(std::string(status.message()), testing::HasSubstr("layer 2, dispatch rows, step 5"));
      EXPECT_THAT(std::string(status.message()), testing::HasSubstr("rank 0 waits for rank 1 on host"));
      EXPECT_THAT(std::string(status.message()), testing::HasSubstr("its process is running"));
    }
  });
}

}  // namespace
}  // namespace tokenferry

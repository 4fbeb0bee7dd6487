#include "launch/ranks/gpu_choice.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace tokenferry {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::Optional;

using Gpus = std::vector<std::vector<int64_t>>;
using Ordinals = std::optional<std::vector<int>>;

Ordinals Choose(DeviceChoice choice, const Topology& topology, const Gpus& gpus) {
  const auto chosen = ChooseGpus(choice, GpuSharing::kRefused, topology, gpus);
  EXPECT_TRUE(chosen.ok()) << chosen.status();
  return chosen.ok() ? *chosen : Ordinals();
}

// Ranks r of hosts "a", "b", .. by host_of[r].
Topology MakeTopology(const std::vector<int>& host_of) {
  std::vector<std::string> names;
  for (int host : host_of) names.push_back(std::string(1, static_cast<char>('a' + host)));
  return Topology::FromHosts(names);
}

TEST(GpuChoiceTest, RanksOfAHostTakeItsGpusInTurn) {
  const Topology topology = MakeTopology({0, 0, 1, 1});
  const Gpus gpus = {{10, 11}, {10, 11}, {10, 11}, {10, 11}};  // two hosts may have GPUs of the same number
  for (DeviceChoice choice : {DeviceChoice::kAuto, DeviceChoice::kCuda}) {
    EXPECT_THAT(Choose(choice, topology, gpus), Optional(ElementsAre(0, 1, 0, 1)));
  }
  EXPECT_EQ(Choose(DeviceChoice::kCpu, topology, gpus), std::nullopt);
}

TEST(GpuChoiceTest, ALauncherMayShowEachRankOneOfItsOwn) {
  const Topology topology = MakeTopology({0, 0, 0});
  EXPECT_THAT(Choose(DeviceChoice::kAuto, topology, {{7}, {8}, {9}}), Optional(ElementsAre(0, 0, 0)));
}

TEST(GpuChoiceTest, AutoSharesNoGpuAndLeavesNobodyBehind) {
  const Topology topology = MakeTopology({0, 0, 0});
  EXPECT_EQ(Choose(DeviceChoice::kAuto, topology, {{7, 8}, {7, 8}, {7, 8}}), std::nullopt);
  EXPECT_EQ(Choose(DeviceChoice::kAuto, topology, {{7}, {7}, {7}}), std::nullopt);
  EXPECT_EQ(Choose(DeviceChoice::kAuto, topology, {{7}, {}, {9}}), std::nullopt);
  EXPECT_EQ(Choose(DeviceChoice::kAuto, topology, {{}, {}, {}}), std::nullopt);
}

TEST(GpuChoiceTest, MoreRanksThanGpusMustBeAskedFor) {
  const Topology topology = MakeTopology({0, 1, 1, 1});
  const Gpus gpus = {{7, 8}, {7, 8}, {7, 8}, {7, 8}};
  const absl::Status refused = ChooseGpus(DeviceChoice::kCuda, GpuSharing::kRefused, topology, gpus).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(refused.message(), HasSubstr("host b has 2 GPUs for 3 ranks"));
  EXPECT_THAT(refused.message(), HasSubstr("--share-gpus"));
  for (DeviceChoice choice : {DeviceChoice::kAuto, DeviceChoice::kCuda}) {
    const auto shared = ChooseGpus(choice, GpuSharing::kAllowed, topology, gpus);
    ASSERT_TRUE(shared.ok()) << shared.status();
    ASSERT_THAT(*shared, Optional(ElementsAre(0, 0, 1, 0)));
    EXPECT_EQ(MostRanksPerGpu(**shared, topology, gpus), 2);
  }
}

TEST(GpuChoiceTest, CudaGoesOnWithoutAGpuAndItsDeviceSaysWhy) {
  EXPECT_THAT(Choose(DeviceChoice::kCuda, MakeTopology({0, 0, 0}), {{}, {}, {}}), Optional(ElementsAre(0, 0, 0)));
}

}  // namespace
}  // namespace tokenferry

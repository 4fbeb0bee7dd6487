#include "launch/ranks/gpu_choice.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace tokenferry {
namespace {

using testing::ElementsAre;
using testing::Optional;

using Gpus = std::vector<std::vector<int64_t>>;

// Ranks r of hosts host_of[r], numbered in order on each host.
Topology MakeTopology(const std::vector<int>& host_of) {
  Topology topology;
  std::vector<int> next(host_of.size(), 0);
  for (int host : host_of) {
    topology.host_idx_per_rank.push_back(host);
    topology.local_idx_per_rank.push_back(next[host]++);
  }
  return topology;
}

TEST(GpuChoiceTest, RanksOfAHostTakeItsGpusInTurn) {
  const Topology topology = MakeTopology({0, 0, 1, 1});
  const Gpus gpus = {{10, 11}, {10, 11}, {10, 11}, {10, 11}};  // two hosts may have GPUs of the same number
  for (DeviceChoice choice : {DeviceChoice::kAuto, DeviceChoice::kCuda}) {
    EXPECT_THAT(ChooseGpus(choice, topology, gpus), Optional(ElementsAre(0, 1, 0, 1)));
  }
  EXPECT_EQ(ChooseGpus(DeviceChoice::kCpu, topology, gpus), std::nullopt);
}

TEST(GpuChoiceTest, ALauncherMayShowEachRankOneOfItsOwn) {
  const Topology topology = MakeTopology({0, 0, 0});
  EXPECT_THAT(ChooseGpus(DeviceChoice::kAuto, topology, {{7}, {8}, {9}}), Optional(ElementsAre(0, 0, 0)));
}

TEST(GpuChoiceTest, AutoSharesNoGpuAndLeavesNobodyBehind) {
  const Topology topology = MakeTopology({0, 0, 0});
  EXPECT_EQ(ChooseGpus(DeviceChoice::kAuto, topology, {{7, 8}, {7, 8}, {7, 8}}), std::nullopt);
  EXPECT_EQ(ChooseGpus(DeviceChoice::kAuto, topology, {{7}, {7}, {7}}), std::nullopt);
  EXPECT_EQ(ChooseGpus(DeviceChoice::kAuto, topology, {{7}, {}, {9}}), std::nullopt);
  EXPECT_EQ(ChooseGpus(DeviceChoice::kAuto, topology, {{}, {}, {}}), std::nullopt);
}

TEST(GpuChoiceTest, CudaSharesWhereItMust) {
  const Topology topology = MakeTopology({0, 0, 0});
  const Gpus gpus = {{7, 8}, {7, 8}, {7, 8}};
  const auto ordinals = ChooseGpus(DeviceChoice::kCuda, topology, gpus);
  ASSERT_THAT(ordinals, Optional(ElementsAre(0, 1, 0)));
  EXPECT_EQ(MostRanksPerGpu(*ordinals, topology, gpus), 2);
  EXPECT_THAT(ChooseGpus(DeviceChoice::kCuda, topology, {{}, {}, {}}), Optional(ElementsAre(0, 0, 0)));
}

}  // namespace
}  // namespace tokenferry

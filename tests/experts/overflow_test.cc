#include "experts/overflow.h"

#include "tests/core/kernels/kernel_test_util.h"

namespace tokenferry {
namespace {

TEST(ExpertCapacity, RoundsUp) {
  EXPECT_EQ(ExpertCapacity(1.0, 2, 16, 8), 4);
  EXPECT_EQ(ExpertCapacity(1.25, 2, 16, 8), 5);
  EXPECT_EQ(ExpertCapacity(1.1, 2, 16, 8), 5);
  EXPECT_EQ(ExpertCapacity(1.0, 1, 1, 256), 1);
  EXPECT_EQ(ExpertCapacity(2.0, 8, 0, 256), 0);
  EXPECT_EQ(ExpertCapacity(1.5, 8, int64_t{1} << 40, 256), (int64_t{1} << 40) / 32 * 3 / 2);
}

std::vector<CpuDeviceOptions> AllOptions() {
  std::vector<CpuDeviceOptions> list = AllDeviceModes(BestIsa(SupportedIsas()));
  list.push_back(ReferenceOptions());
  return list;
}

TEST(CountSelections, CountsAndIgnoresNone) {
  for (const CpuDeviceOptions& options : AllOptions()) {
    TestDevice device(options);
    CountSelectionsArgs args;
    args.num_experts = 4;
    args.counts = device.Upload(std::vector<int32_t>(4, 99));
    CountSelections(device.stream(), args);  // no tokens
    EXPECT_EQ(device.Download(args.counts, 4), (std::vector<int32_t>{0, 0, 0, 0}));
    // Two columns of a matrix of three.
    args.expert_idx = {device.Upload(std::vector<int32_t>{3, 0, 9, -1, 3, 9, 0, 3, 9}), 3, 2, 3};
    CountSelections(device.stream(), args);
    EXPECT_EQ(device.Download(args.counts, 4), (std::vector<int32_t>{2, 0, 0, 3}));
  }
}

TEST(ApplyCapacity, DropsByPositionAfterLowerRanks) {
  for (const CpuDeviceOptions& options : AllOptions()) {
    TestDevice device(options);
    const std::vector<int32_t> idx = {0, 1, 1, 2, 0, -1, 2, 1, 0, 2};
    const std::vector<float> weight = {.1f, .2f, .3f, .4f, .5f, 0, .7f, .8f, .9f, 1.0f};
    ApplyCapacityArgs args;
    args.routing.expert_idx = MakeMatrix<int32_t>(device.Upload(idx), 5, 2);
    args.routing.weight = MakeMatrix<float>(device.Upload(weight), 5, 2);
    args.num_experts = 3;
    args.capacity = 2;
    args.taken_before = device.Upload(std::vector<int32_t>{0, 1, 7});  // 0: two more, 1: one more, 2: full
    args.dropped = device.Upload(std::vector<int64_t>{0, 10, 0});
    args.lost_weight = device.Upload(std::vector<double>{0, 1, 0});
    ApplyCapacity(device.stream(), args);
    EXPECT_EQ(device.Download(args.routing.expert_idx.data, 10),
              (std::vector<int32_t>{0, 1, -1, -1, 0, -1, -1, -1, -1, -1}));
    EXPECT_EQ(device.Download(args.routing.weight.data, 10), (std::vector<float>{.1f, .2f, 0, 0, .5f, 0, 0, 0, 0, 0}));
    EXPECT_EQ(device.Download(args.dropped, 3), (std::vector<int64_t>{1, 12, 3}));
    EXPECT_EQ(device.Download(args.lost_weight, 3),
              (std::vector<double>{double{.9f}, 1 + double{.3f} + double{.8f}, double{.4f} + double{.7f} + 1}));
  }
}

TEST(ApplyCapacity, KeepsEverythingBelowCapacity) {
  TestDevice device(ReferenceOptions());
  const std::vector<int32_t> idx = {0, 1, 0, 1};
  ApplyCapacityArgs args;
  args.routing.expert_idx = MakeMatrix<int32_t>(device.Upload(idx), 2, 2);
  args.routing.weight = MakeMatrix<float>(device.Upload(std::vector<float>(4, .5f)), 2, 2);
  args.num_experts = 2;
  args.capacity = 2;
  args.taken_before = device.Upload(std::vector<int32_t>{0, 0});
  args.dropped = device.Upload(std::vector<int64_t>{0, 0});
  args.lost_weight = device.Upload(std::vector<double>{0, 0});
  ApplyCapacity(device.stream(), args);
  EXPECT_EQ(device.Download(args.routing.expert_idx.data, 4), idx);
  EXPECT_EQ(device.Download(args.dropped, 2), (std::vector<int64_t>{0, 0}));
}

}  // namespace
}  // namespace tokenferry

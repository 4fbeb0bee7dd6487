// Which tile a bf16 product takes: by the rows of a group, and by the shared memory that a block has on the GPU. No bit
// depends on it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>

#include "core/device/cuda_device.h"
#include "core/kernels/matmul.h"
#include "experts/ffn/expert_ffn.h"
#include "tests/fakegpu/cudart/runtime.h"
#include "tests/support/cuda_compare.h"

namespace tokenferry {
namespace {

using fakegpu::Runtime;

constexpr size_t kHopperBytes = 227 << 10, kA100Bytes = 163 << 10, kSmallBytes = 99 << 10;  // sm_90, 80; 86, 89, 120

struct Ran {
  int tile = 0;  // rows of it
  std::vector<uint8_t> bits;
};

class ProductTilesTest : public testing::Test {
 protected:
  void SetUp() override { device_ = *CreateCudaDevice({}); }
  void TearDown() override { Runtime::Get().max_shared_bytes = had_bytes_; }

  Ran Multiply(const WeightFormat& format, const std::vector<int64_t>& rows, int64_t expected_rows = 0) {
    constexpr int64_t kOuts = 33, kInputs = 80;
    Runtime::Get().launched.clear();
    OpRun run(*device_, 7);
    std::vector<int64_t> offsets = {0};
    std::vector<WeightView> weights;
    for (const int64_t n : rows) {
      weights.push_back(RandomWeight(run, format, kOuts, kInputs));
      offsets.push_back(offsets.back() + n);
    }
    GroupedMatMulArgs args;
    args.x = run.Input(NormalValues<BF16>(run.rng(), offsets.back() * kInputs));
    args.x_dtype = DType::kBF16;
    args.x_stride = kInputs;
    args.offsets = run.Input(offsets);
    args.num_groups = static_cast<int64_t>(rows.size());
    args.max_rows = expected_rows > 0 ? 1000 : offsets.back();
    args.expected_rows = expected_rows;
    args.weights = {weights[0], run.Input(weights)};
    args.y = run.Output<float>("y", offsets.back() * kOuts);
    args.y_stride = kOuts;
    args.compute = Compute::kBF16;
    GroupedMatMul(run.stream(), args);
    const auto results = run.Finish();
    EXPECT_TRUE(results.ok()) << results.status();
    return {LaunchedTile(), results.ok() ? results->at(0).bytes : std::vector<uint8_t>()};
  }

  // The largest one, of the kernels in whose mangled names `form` occurs.
  static int LaunchedTile(const std::string& form = "") {
    const std::string before = "ProductILi";
    int tile = 0;
    for (const fakegpu::Kernel* kernel : Runtime::Get().launched) {
      const size_t at = kernel->name.find(before);
      if (at == std::string::npos || kernel->name.find(form) == std::string::npos) continue;
      tile = std::max(tile, std::atoi(kernel->name.c_str() + at + before.size()));
    }
    return tile;
  }

  std::unique_ptr<Device> device_;

 private:
  const size_t had_bytes_ = Runtime::Get().max_shared_bytes;
};

TEST_F(ProductTilesTest, FitTheSharedMemory) {
  const WeightFormat formats[] = {{.dtype = DType::kBF16}, F8BlockWeights::Of(128, 128), {.dtype = DType::kF16}};
  for (const WeightFormat& format : formats) {
    SCOPED_TRACE(ToString(format));
    std::vector<uint8_t> bits;
    for (const size_t num_bytes : {kHopperBytes, kA100Bytes, kSmallBytes}) {
      Runtime::Get().max_shared_bytes = num_bytes;
      const Ran ran = Multiply(format, {201});
      EXPECT_EQ(ran.tile, num_bytes == kSmallBytes ? 128 : 256) << num_bytes;
      if (bits.empty()) bits = ran.bits;
      EXPECT_EQ(ran.bits, bits) << num_bytes;
    }
  }
}

// Not the rows that a launch covers in the worst case.
TEST_F(ProductTilesTest, FollowTheRowsThatAreExpected) {
  const WeightFormat format{.dtype = DType::kBF16};
  const Ran want = Multiply(format, {3, 0, 18}, 1);
  EXPECT_EQ(want.tile, 8);
  const std::pair<int, int> cases[] = {{8, 8}, {9, 16}, {32, 32}, {64, 64}, {192, 128}, {193, 256}};
  for (const auto& [per_group, tile] : cases) {
    const Ran ran = Multiply(format, {3, 0, 18}, 3 * per_group);
    EXPECT_EQ(ran.tile, tile) << per_group << " rows per group";
    EXPECT_EQ(ran.bits, want.bits) << per_group << " rows per group";
  }
}

// A decode step's on path peer: 5 selections of the 600 that a launch covers, which nobody has written. Gate, up and
// activation are one kernel, whose rows the other one copies as they are.
TEST_F(ProductTilesTest, OfExpertsFollowTheSelectionsThatAreExpected) {
  constexpr int64_t kSize = 16, kMost = 600;
  Runtime::Get().launched.clear();
  OpRun run(*device_, 7);
  std::vector<WeightView> weights;
  for (int s = 0; s < 2; ++s) weights.push_back(RandomWeight(run, {.dtype = DType::kBF16}, kSize, kSize));
  const WeightArray array = {weights[0], run.Input(weights)};
  ExpertFfnArgs args;
  args.rows.rows = run.Input(NormalValues<BF16>(run.rng(), 3 * kSize));
  args.rows.dtype = DType::kBF16;
  args.rows.hidden = args.rows.row_stride = args.intermediate = kSize;
  args.rows.row_idx = run.Input(std::vector<int32_t>{0, 1, 0, 2, 1});
  args.rows.slot_offsets = run.Input(std::vector<int64_t>{0, 2, 5});
  args.rows.max_selections = kMost;
  args.rows.expected_selections = 6;
  args.num_slots = 2;
  args.gate = args.up = args.down = array;
  args.scratch = run.Output<float>("scratch", 5 * 2 * kSize);
  args.out = FloatMatrix(run.Output<float>("out", 5 * kSize), DType::kF32, kMost, kSize);
  args.compute = Compute::kBF16;
  ExpertFfn(run.stream(), args);
  const auto results = run.Finish();
  ASSERT_TRUE(results.ok()) << results.status();
  EXPECT_EQ(LaunchedTile(), 8);
  EXPECT_EQ(Runtime::Get().launched.size(), 2);
  const std::string copied = "LoadKindE0";
  EXPECT_EQ(LaunchedTile(copied + "ELNS0_4FormE1"), 8);
  EXPECT_EQ(LaunchedTile(copied + "ELNS0_4FormE0"), 8);
}

TEST_F(ProductTilesTest, NoneThatFitsIsNamed) {
  Runtime::Get().max_shared_bytes = kSmallBytes;
  const auto stream = *device_->CreateStream();
  constexpr int64_t kGroups = 100'000;  // each has a number in shared memory
  GroupedMatMulArgs args{.x_dtype = DType::kBF16, .x_stride = 8, .num_groups = kGroups, .max_rows = kGroups};
  args.weights.layout = {.format = {.dtype = DType::kBF16}, .rows = 8, .cols = 8};
  args.y_stride = 8;
  args.compute = Compute::kBF16;
  GroupedMatMul(*stream, args);
  const absl::Status status = stream->Synchronize();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(status.message()),
              testing::AllOf(testing::HasSubstr("grouped"), testing::HasSubstr("and has 101376 on this GPU")));
}

}  // namespace
}  // namespace tokenferry

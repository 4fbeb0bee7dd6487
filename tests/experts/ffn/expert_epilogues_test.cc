// Activations and biases that some families have around the products of experts.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "experts/ffn/expert_ffn.h"
#include "tests/core/kernels/kernel_test_util.h"

namespace tokenferry {
namespace {

std::vector<float> RunSwiglu(const std::vector<float>& gate, const std::vector<float>& up,
                             const CpuDeviceOptions& options) {
  TestDevice device(options);
  const auto n = static_cast<int64_t>(gate.size());
  const auto g = MakeMatrix<float>(device.Upload(gate), 1, n), u = MakeMatrix<float>(device.Upload(up), 1, n);
  ClampedSwiglu(device.stream(), {g, u, g, 7.0f, 1.702f});
  return device.Download(g.data, n);
}

TEST(ClampedSwiglu, Vectors) {
  const auto out = RunSwiglu({1, 10, -3}, {0.5f, -9, 2}, ReferenceOptions());
  EXPECT_NEAR(out[0], 1.268694, 2e-6);
  EXPECT_NEAR(out[1], -41.999719, 5e-5);
  EXPECT_NEAR(out[2], -0.054214, 1e-6);
}

TEST(ClampedSwiglu, EveryDeviceGivesTheReferencesBits) {
  std::mt19937 random(61);
  const std::vector<float> gate = RandomFloats(1000, random, 9.0f), up = RandomFloats(1000, random, 9.0f);
  const auto expected = RunSwiglu(gate, up, ReferenceOptions());
  for (const CpuDeviceOptions& options : AllDeviceModes(BestIsa(SupportedIsas()))) {
    EXPECT_TRUE(SameBytes(RunSwiglu(gate, up, options), expected));
  }
  EXPECT_TRUE(std::isnan(RunSwiglu({std::nanf("")}, {1}, ReferenceOptions())[0]));
  EXPECT_TRUE(std::isnan(RunSwiglu({1}, {std::nanf("")}, ReferenceOptions())[0]));
}

std::vector<float> RunRelu(const std::vector<float>& x, const CpuDeviceOptions& options) {
  TestDevice device(options);
  const auto n = static_cast<int64_t>(x.size());
  const auto rows = MakeMatrix<float>(device.Upload(x), 1, n);
  Relu(device.stream(), {rows});
  return device.Download(rows.data, n);
}

TEST(Relu, LeavesWhatIsPositive) {
  const float inf = std::numeric_limits<float>::infinity();
  for (const CpuDeviceOptions& options : AllDeviceModes(BestIsa(SupportedIsas()))) {
    const std::vector<float> out = RunRelu({-2, 0, 3, -inf, inf, std::nanf("")}, options);
    EXPECT_EQ(std::vector<float>(out.begin(), out.begin() + 5), (std::vector<float>{0, 0, 3, 0, inf}));
    EXPECT_TRUE(std::isnan(out[5]));
  }
}

// Slots of 2, 0 and 1 rows; what lies behind the last row is nobody's.
template <class T>
std::vector<T> RunBias(const std::vector<T>& x, const CpuDeviceOptions& options) {
  TestDevice device(options);
  std::vector<WeightView> views;
  for (const std::vector<float>& bias : {std::vector<float>{1, 2}, {10, 20}, {100, 200}}) {
    views.push_back({.data = device.Upload(bias), .rows = 1, .cols = 2});
  }
  const WeightArray bias{views[0], device.Upload(views)};
  const auto rows = MakeMatrix<T>(device.Upload(x), static_cast<int64_t>(x.size()) / 2, 2);
  AddSlotBias(device.stream(), {rows, device.Upload(std::vector<int64_t>{0, 2, 2, 3}), 3, bias});
  return device.Download(rows.data, static_cast<int64_t>(x.size()));
}

TEST(AddSlotBias, EachRowGetsItsSlots) {
  for (const CpuDeviceOptions& options : AllDeviceModes(BestIsa(SupportedIsas()))) {
    EXPECT_EQ(RunBias<float>({0, 0, 5, 5, 7, 7, 9, 9}, options), (std::vector<float>{1, 2, 6, 7, 107, 207, 9, 9}));
    const BF16 zero = ToBF16(0), nine = ToBF16(9);
    const auto out = RunBias<BF16>({zero, zero, zero, zero, zero, zero, nine, nine}, options);
    EXPECT_EQ(out,
              (std::vector<BF16>{ToBF16(1), ToBF16(2), ToBF16(1), ToBF16(2), ToBF16(100), ToBF16(200), nine, nine}));
  }
}

}  // namespace
}  // namespace tokenferry

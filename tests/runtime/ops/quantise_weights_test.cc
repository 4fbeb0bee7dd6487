#include "runtime/ops/quantise_weights.h"

#include <cmath>
#include <limits>
#include <random>

#include "core/kernels/matmul_values.h"
#include "tests/support/device_cases.h"

namespace tokenferry {
namespace {

constexpr unsigned kWeightSeed = 11;

// What a matrix becomes on one device.
struct Quantised {
  WeightView shape;  // without pointers
  std::vector<uint8_t> data, scales, zero_points;
  int64_t num_unfit_groups = 0;

  WeightView View() const {
    WeightView w = shape;
    w.data = data.data();
    if (w.format.has_scales()) w.scales = scales.data();
    if (w.format.coding == WeightCoding::kZeroPoint) w.zero_points = zero_points.data();
    return w;
  }
  friend bool operator==(const Quantised& a, const Quantised& b) {
    return a.data == b.data && a.scales == b.scales && a.zero_points == b.zero_points &&
           a.num_unfit_groups == b.num_unfit_groups;
  }
};

const WeightFormat kFormats[] = {WeightFormat{.dtype = DType::kBF16},
                                 F8BlockWeights::Of(1, 128),
                                 PlanarWeights::Of(DType::kI8, WeightCoding::kNumber, DType::kBF16, 128),
                                 PlanarWeights::Of(DType::kU8, WeightCoding::kZeroPoint, DType::kF32, 48),
                                 PlanarWeights::Of(DType::kU4, WeightCoding::kZeroPoint, DType::kBF16, 32),
                                 PlanarWeights::Of(DType::kU2, WeightCoding::kZeroPoint, DType::kBF16, 32)};

// Rows of one sign, of zeros, and of both signs.
std::vector<float> RandomMatrix(std::mt19937& rng, int64_t rows, int64_t cols) {
  std::vector<float> x = RandomNormal(rng, rows * cols);
  for (int64_t i = 0; i < cols; ++i) {
    if (rows > 1) x[cols + i] = std::fabs(x[cols + i]) + 1;
    if (rows > 2) x[2 * cols + i] = 0;
    if (rows > 3) x[3 * cols + i] *= 1e-20f;
  }
  return x;
}

Quantised Quantise(const CpuDeviceOptions& options, const std::vector<float>& x, int64_t rows, int64_t cols,
                   const WeightFormat& format) {
  TestDevice device(options);
  const WeightBytes bytes = BytesOf(format, rows, cols);
  Buffer src = device.Upload(x);
  Buffer data = device.Upload(std::vector<uint8_t>(bytes.data, 0xAA)), scales = device.Allocate<uint8_t>(bytes.scales),
         zero_points = device.Allocate<uint8_t>(bytes.zero_points);
  Quantised result;
  result.shape = {.format = format, .rows = rows, .cols = cols};
  if (format.has_scales()) result.shape.scale_stride = (cols + format.block_cols - 1) / format.block_cols;
  QuantiseWeights(device.stream(), {.src = {.data = src.data(), .rows = rows, .cols = cols},
                                    .dst = result.shape,
                                    .data = data.data(),
                                    .scales = scales.data(),
                                    .zero_points = zero_points.as<uint8_t>(),
                                    .num_unfit_groups = &result.num_unfit_groups});
  result.data = device.Download<uint8_t>(data);
  result.scales = device.Download<uint8_t>(scales);
  result.zero_points = device.Download<uint8_t>(zero_points);
  return result;
}

class QuantiseWeightsTest : public testing::TestWithParam<CpuDeviceOptions> {};
INSTANTIATE_TEST_SUITE_P(Fast, QuantiseWeightsTest, testing::ValuesIn(FastDevices()));

TEST_P(QuantiseWeightsTest, EqualsTheReference) {
  std::mt19937 rng(kWeightSeed);
  for (const auto& [rows, cols] : {std::pair<int64_t, int64_t>{1, 8}, {5, 72}, {33, 128}, {70, 300}, {0, 16}}) {
    const std::vector<float> x = RandomMatrix(rng, rows, cols);
    for (const WeightFormat& format : kFormats) {
      EXPECT_TRUE(Quantise(GetParam(), x, rows, cols, format) == Quantise(ReferenceDevice(), x, rows, cols, format))
          << ToString(format) << " of " << rows << " x " << cols;
    }
  }
}

// By how much a value may move. BF16 and FP8: half a unit of their last place, at most 2^-8 and 2^-4 of it, FP8 below
// its normal numbers 2^-10 of the scale. Integers: half a step. A scale in BF16 may be too small by 2^-8 of it, so that
// the `most` steps of a group do not span it: what is cut off is at most most / (1 - 2^-8) - most of a step. The
// divisions in f32 add less than 2^-10 of a step.
double Bound(const WeightView& w, int64_t o, int64_t i, float x) {
  const WeightFormat& f = w.format;
  if (!f.has_scales()) return std::fabs(x) * 0x1p-8;
  if (F8BlockWeights::Matches(f)) {
    const double scale = F8BlockWeights::Scale(w, o, i);
    return std::max(std::fabs(x) * 0x1.001p-4, scale * 0x1p-10);
  }
  const double most = f.coding == WeightCoding::kZeroPoint ? (1 << DTypeBits(f.dtype)) - 1 : 127;
  return PlanarWeights::Scale(w, o, i) * (0.5 + most / 255 + 0x1p-10);
}

TEST(QuantiseWeights, ValuesMoveByLessThanAStep) {
  std::mt19937 rng(kWeightSeed + 1);
  constexpr int64_t kRows = 20, kCols = 200;
  const std::vector<float> x = RandomMatrix(rng, kRows, kCols);
  for (const WeightFormat& format : kFormats) {
    const Quantised q = Quantise(ReferenceDevice(), x, kRows, kCols, format);
    const WeightView view = q.View();
    for (int64_t o = 0; o < kRows; ++o) {
      std::vector<float> row(kCols);
      WeightValues(view, o, 0, kCols, Compute::kF32, row.data());
      for (int64_t i = 0; i < kCols; ++i) {
        ASSERT_LE(std::fabs(row[i] - x[o * kCols + i]), Bound(view, o, i, x[o * kCols + i]))
            << ToString(format) << " row " << o << " column " << i;
        if (o == 2) {
          ASSERT_EQ(row[i], 0.0f);  // zeros stay
        }
      }
    }
  }
}

// Rows of one group whose scale is at an end of what its type holds. Each becomes what the contract says, by hand.
TEST(QuantiseWeights, ScalesAtTheEndsOfTheirType) {
  constexpr int64_t kCols = 8;
  const auto quantise = [](std::vector<float> ends, const WeightFormat& format) {
    ends.resize(kCols);
    Quantised q = Quantise(ReferenceDevice(), ends, 1, kCols, format);
    std::vector<float> row(kCols);
    WeightValues(q.View(), 0, 0, kCols, Compute::kF32, row.data());
    return std::pair(row, q.num_unfit_groups);
  };
  for (const WeightFormat& format : kFormats) {
    SCOPED_TRACE(ToString(format));
    const auto [tiny, tiny_unfit] = quantise({1e-40f, -1e-40f, 1e-45f}, format);
    EXPECT_EQ(tiny_unfit, 0);
    for (const float value : tiny) EXPECT_LE(std::fabs(value), 2e-40f);
    // 2e38 and its opposite are 4e38 apart, which is beyond f32. Two bits have steps of 4e38 / 3.
    const auto [large, large_unfit] = quantise({2e38f, -2e38f}, format);
    EXPECT_EQ(large_unfit, 0);
    EXPECT_GT(large[0], 1.3e38f);
    EXPECT_LT(large[1], -1.3e38f);
    EXPECT_EQ(large[2], 0.0f);
    for (const float bad : {INFINITY, -INFINITY, NAN}) {
      const auto [values, num_unfit] = quantise({1, bad, 2}, format);
      EXPECT_EQ(num_unfit, 1);
      for (const float value : values) EXPECT_EQ(value, 0.0f);
    }
  }
  // The scale rounds to 0 in its type, and dividing by it would make an infinite code.
  const WeightFormat int8 = PlanarWeights::Of(DType::kI8, WeightCoding::kNumber, DType::kBF16, 128);
  EXPECT_EQ(quantise({1e-40f, -1e-40f}, int8), std::pair(std::vector<float>(kCols), int64_t{0}));
  // The largest number of f32 is beyond that of BF16, to which it would be rounded.
  EXPECT_EQ(quantise({std::numeric_limits<float>::max()}, {.dtype = DType::kBF16}).second, 1);
  // Its scale of 1.1343e38 becomes 1.1365e38, three of which are too much.
  const WeightFormat int2 = PlanarWeights::Of(DType::kU2, WeightCoding::kZeroPoint, DType::kBF16, 32);
  EXPECT_EQ(quantise({3.402e38f}, int2).second, 1);
  // In steps of 1.99e38 around a zero point of 2 the lowest code is worth -3.99e38.
  EXPECT_EQ(quantise({3e38f, -3e38f}, int2).second, 1);
}

// A source may be in any format: here each one that the operation writes, to BF16.
TEST(QuantiseWeights, ReadsAnyFormat) {
  std::mt19937 rng(kWeightSeed + 2);
  constexpr int64_t kRows = 6, kCols = 96;
  const std::vector<float> x = RandomMatrix(rng, kRows, kCols);
  for (const WeightFormat& format : kFormats) {
    const Quantised q = Quantise(ReferenceDevice(), x, kRows, kCols, format);
    std::vector<float> values(kRows * kCols);
    for (int64_t o = 0; o < kRows; ++o) WeightValues(q.View(), o, 0, kCols, Compute::kF32, &values[o * kCols]);
    TestDevice device({});
    Buffer data = device.Upload(q.data), scales = device.Upload(q.scales), zero_points = device.Upload(q.zero_points);
    WeightView src = q.shape;
    src.data = data.data();
    if (format.has_scales()) src.scales = scales.data();
    if (format.coding == WeightCoding::kZeroPoint) src.zero_points = zero_points.as<uint8_t>();
    Buffer out = device.Allocate<BF16>(kRows * kCols);
    int64_t num_unfit_groups = 0;
    QuantiseWeights(device.stream(), {.src = src,
                                      .dst = {.format = {.dtype = DType::kBF16}, .rows = kRows, .cols = kCols},
                                      .data = out.data(),
                                      .num_unfit_groups = &num_unfit_groups});
    const std::vector<BF16> rounded = device.Download<BF16>(out);
    for (size_t i = 0; i < values.size(); ++i) ASSERT_EQ(rounded[i], ToBF16(values[i])) << ToString(format) << " " << i;
  }
}

}  // namespace
}  // namespace tokenferry

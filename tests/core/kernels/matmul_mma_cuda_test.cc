// Products in bf16 on tensor cores: near the plain reference, and a row's bits are its own.
#include <cmath>

#include "core/kernels/matmul.h"
#include "tests/core/kernels/kernel_test_util.h"
#include "tests/support/cuda_compare.h"
#include "tests/support/random_blocks.h"

namespace tokenferry {
namespace {

struct Shape {
  int64_t outs, cols;
};
std::ostream& operator<<(std::ostream& out, const Shape& s) {
  return out << s.outs << " outputs, " << s.cols << " inputs";
}

// Weights whose loads are copied whole, and those that are converted: odd widths, f32, odd blocks.
const std::vector<std::pair<WeightFormat, Shape>> kWeights = {
    {WeightFormat{.dtype = DType::kBF16}, {130, 192}}, {WeightFormat{.dtype = DType::kBF16}, {7, 8}},
    {WeightFormat{.dtype = DType::kBF16}, {33, 71}},   {WeightFormat{.dtype = DType::kF32}, {20, 70}},
    {F8BlockWeights::Of(128, 128), {129, 336}},        {F8BlockWeights::Of(16, 64), {40, 80}},
    {F8BlockWeights::Of(128, 128), {5, 17}},           {F8BlockWeights::Of(5, 24), {37, 100}},
};
const std::vector<std::vector<int64_t>> kGroups = {{1}, {3, 0, 18}, {9, 70}};

// A grouped product whose numbers follow from the seed. `expected_rows` decides the tile. kMagnitudes: the sum of |x
// w|.
enum class Numbers { kSigned, kMagnitudes };
struct Case {
  WeightFormat format;
  Shape shape;
  std::vector<int64_t> rows;
  DType y_dtype = DType::kF32;
  int64_t rows_per_group = 0;  // that are said to be expected; 0: as many as there are
};

template <class T>
void Magnitudes(std::vector<T>& values) {
  for (T& x : values) {
    if constexpr (std::is_same_v<T, float>) x = std::fabs(x);
    if constexpr (std::is_same_v<T, BF16>) x.bits &= 0x7FFF;
    if constexpr (std::is_same_v<T, F8E4M3>) x.bits &= 0x7F;
  }
}

template <class T>
const void* Upload(OpRun& run, std::vector<T> values, Numbers numbers) {
  if (numbers == Numbers::kMagnitudes) Magnitudes(values);
  return run.Input(values);
}

WeightView MakeWeight(OpRun& run, const Case& c, Numbers numbers) {
  const auto [outs, cols] = c.shape;
  WeightView w{.format = c.format, .rows = outs, .cols = cols};
  if (c.format.dtype == DType::kF32) w.data = Upload(run, NormalFloats(run.rng(), outs * cols), numbers);
  if (c.format.dtype == DType::kBF16) w.data = Upload(run, NormalValues<BF16>(run.rng(), outs * cols), numbers);
  if (c.format.dtype != DType::kF8E4M3) return w;
  std::vector<F8E4M3> codes;
  for (const float x : NormalFloats(run.rng(), outs * cols, 64)) codes.push_back(ToF8E4M3(x));
  w.data = Upload(run, codes, numbers);
  w.row_offset = 16;  // a view of a slice
  w.scale_stride = (cols + c.format.block_cols - 1) / c.format.block_cols;
  const int64_t bands = (w.row_offset + outs + c.format.block_rows - 1) / c.format.block_rows;
  w.scales = Upload(run, NormalFloats(run.rng(), bands * w.scale_stride, 1.0f / 512), numbers);
  return w;
}

template <class X>
void Multiply(OpRun& run, const Case& c, Numbers numbers) {
  std::vector<int64_t> offsets = {0};
  std::vector<WeightView> weights;
  for (const int64_t n : c.rows) {
    weights.push_back(MakeWeight(run, c, numbers));
    offsets.push_back(offsets.back() + n);
  }
  constexpr int64_t kSourceRows = 11;
  GroupedMatMulArgs args;
  args.x = Upload(run, NormalValues<X>(run.rng(), kSourceRows * c.shape.cols), numbers);
  args.x_dtype = kDTypeOf<X>;
  args.x_stride = c.shape.cols;
  args.row_idx = run.Input(UniformInts(run.rng(), offsets.back(), 0, kSourceRows));
  args.offsets = run.Input(offsets);
  args.num_groups = static_cast<int64_t>(weights.size());
  args.max_rows = offsets.back();
  args.expected_rows = c.rows_per_group * args.num_groups;
  args.weights = {{.format = c.format, .rows = c.shape.outs, .cols = c.shape.cols, .row_offset = weights[0].row_offset},
                  run.Input(weights)};
  args.weights.layout.scales = weights[0].scales;
  args.y = c.y_dtype == DType::kF32 ? static_cast<void*>(run.Output<float>("y", offsets.back() * c.shape.outs))
                                    : run.Output<BF16>("y", offsets.back() * c.shape.outs);
  args.y_dtype = c.y_dtype;
  args.y_stride = c.shape.outs;
  args.compute = Compute::kBF16;
  GroupedMatMul(run.stream(), args);
}

template <class X>
std::vector<uint8_t> RunProduct(Device& device, const Case& c, Numbers numbers = Numbers::kSigned) {
  OpRun run(device, 7);
  Multiply<X>(run, c, numbers);
  auto results = run.Finish();
  EXPECT_TRUE(results.ok()) << results.status();
  return results.ok() ? results->at(0).bytes : std::vector<uint8_t>();
}

class MatMulMmaCudaTest : public CudaCompareTest {
 protected:
  // Ours: an instruction adds 16 products, exact, to a sum, taken as one rounding of 2^-23 of the largest term; two
  // more for what its order inside is. The reference: cols / 16 + 5 roundings of 2^-24.
  template <class X>
  void ExpectNear(const Case& c) {
    const auto want = RunProduct<X>(*reference_, c), sums = RunProduct<X>(*reference_, c, Numbers::kMagnitudes),
               got = RunProduct<X>(*cuda_, c);
    ASSERT_EQ(got.size(), want.size());
    const double roundings = (c.shape.cols / 16 + 3) * 0x1p-23 + (c.shape.cols / 16 + 6) * 0x1p-24;
    const size_t n = (want.size() - OpRun::kGuardBytes) / sizeof(float);
    for (size_t i = 0; i < n; ++i) {
      float w, g, s;
      std::memcpy(&w, &want[4 * i], 4), std::memcpy(&g, &got[4 * i], 4), std::memcpy(&s, &sums[4 * i], 4);
      ASSERT_LE(std::fabs(w - g), roundings * s * 1.001) << "element " << i << ": " << g << ", want " << w;
    }
    EXPECT_EQ(0, std::memcmp(&got[4 * n], &want[4 * n], OpRun::kGuardBytes)) << "behind the end";
  }

  // Every tile gives the same bits, rounded outputs are the wide ones rounded once.
  template <class X>
  void ExpectOwnBits(Case c) {
    const auto wide = RunProduct<X>(*cuda_, c);
    for (const int64_t rows : {1, 9, 17, 33, 65, 193}) {
      c.rows_per_group = rows;
      EXPECT_EQ(wide, RunProduct<X>(*cuda_, c)) << rows << " rows per group";
    }
    c.y_dtype = DType::kBF16;
    const auto narrow = RunProduct<X>(*cuda_, c);
    for (size_t i = 0; i < (wide.size() - OpRun::kGuardBytes) / 4; ++i) {
      float w;
      BF16 y;
      std::memcpy(&w, &wide[4 * i], 4), std::memcpy(&y, &narrow[2 * i], 2);
      ASSERT_EQ(ToBF16(w), y) << i;
    }
  }
};

TEST_F(MatMulMmaCudaTest, IsNearTheReference) {
  for (const auto& [format, shape] : kWeights) {
    for (const auto& rows : kGroups) {
      SCOPED_TRACE(testing::Message() << ToString(format) << ", " << shape << ", " << rows.size() << " groups");
      ExpectNear<BF16>({format, shape, rows});
      ExpectNear<float>({format, shape, rows});
    }
  }
}

HostWeight RandomStored(const WeightFormat& format, const Shape& shape, std::mt19937& rng) {
  if (PlanarWeights::Matches(format)) return RandomPlanarWeight(format, shape.outs, shape.cols, rng);
  HostWeight host;
  host.shape = {.format = format, .rows = shape.outs, .cols = shape.cols};
  if (BlockWeights::Matches(format)) {
    host.bytes = RandomBlocks(format.dtype, BytesOf(format, shape.outs, shape.cols).data, rng);
    return host;
  }
  std::vector<FP16> values;
  for (const float x : NormalFloats(rng, shape.outs * shape.cols)) values.push_back(ToFP16(x));
  host.bytes.resize(values.size() * sizeof(FP16));
  std::memcpy(host.bytes.data(), values.data(), host.bytes.size());
  return host;
}

std::vector<uint8_t> ProductWith(OpRun& run, const WeightView& w, int64_t num_rows) {
  MatMulArgs args;
  args.x = run.Input(NormalValues<BF16>(run.rng(), num_rows * w.cols));
  args.x_dtype = DType::kBF16;
  args.x_stride = w.cols;
  args.num_rows = num_rows;
  args.w = w;
  args.y = run.Output<float>("y", num_rows * w.rows);
  args.y_stride = w.rows;
  args.compute = Compute::kBF16;
  MatMul(run.stream(), args);
  const auto results = run.Finish();
  EXPECT_TRUE(results.ok()) << results.status();
  return results.ok() ? results->at(0).bytes : std::vector<uint8_t>();
}

// What has no copy of its own into shared memory is what it is when it has been widened to bf16 before.
class MeantWeights : public MatMulMmaCudaTest {
 protected:
  void ExpectMeaning(const WeightFormat& format, const Shape& shape, int64_t num_rows, uint32_t seed) {
    SCOPED_TRACE(testing::Message() << ToString(format) << ", " << shape << ", " << num_rows << " rows");
    std::mt19937 rng(seed);
    const HostWeight host = RandomStored(format, shape, rng);
    WeightView stored = host.shape;
    stored.data = host.bytes.data();
    stored.scales = host.planar_scales.data();
    stored.zero_points = host.zero_points.data();
    std::vector<BF16> meant;
    for (int64_t i = 0; i < shape.outs * shape.cols; ++i) {
      const int64_t o = i / shape.cols;
      VisitWeightFormat(format,
                        [&](auto f) { meant.push_back(ToBF16(decltype(f)::Value(stored, o, i % shape.cols))); });
    }
    OpRun wide(*cuda_, 7), coded(*cuda_, 7);
    WeightView w = stored;
    w.data = coded.Input(host.bytes);
    w.scales = host.planar_scales.empty() ? nullptr : coded.Input(host.planar_scales);
    w.zero_points = host.zero_points.empty() ? nullptr : coded.Input(host.zero_points);
    const WeightView as_bf16{
        .format = {.dtype = DType::kBF16}, .data = wide.Input(meant), .rows = shape.outs, .cols = shape.cols};
    EXPECT_EQ(ProductWith(coded, w, num_rows), ProductWith(wide, as_bf16, num_rows));
  }
};

// A row that is 1 at one input has its weight alone, where the output has no NaN among the others.
TEST_F(MatMulMmaCudaTest, TakesEveryCodeOfF8) {
  constexpr int64_t kSize = 16;
  std::vector<F8E4M3> codes;
  std::vector<BF16> rows(kSize * kSize, BF16{0});
  for (int i = 0; i < 256; ++i) codes.push_back(F8E4M3{static_cast<uint8_t>(i)});
  for (int64_t t = 0; t < kSize; ++t) rows[t * kSize + t] = ToBF16(1.0f);
  OpRun run(*cuda_, 7);
  MatMulArgs args;
  args.x = run.Input(rows);
  args.x_dtype = DType::kBF16;
  args.x_stride = args.y_stride = args.num_rows = kSize;
  args.w = {.format = F8BlockWeights::Of(128, 128), .data = run.Input(codes), .rows = kSize, .cols = kSize};
  args.w.scales = run.Input(std::vector<float>{0.5f});
  args.w.scale_stride = 1;
  args.y = run.Output<float>("y", kSize * kSize);
  args.compute = Compute::kBF16;
  MatMul(run.stream(), args);
  const auto results = run.Finish();
  ASSERT_TRUE(results.ok()) << results.status();
  for (int code = 0; code < 256; ++code) {
    const int64_t o = code / kSize, t = code % kSize;
    float y;
    std::memcpy(&y, &results->at(0).bytes[(t * kSize + o) * sizeof(float)], sizeof(float));
    if (o % 8 == 7) {
      EXPECT_TRUE(std::isnan(y)) << code;
    } else {
      EXPECT_EQ(y, 0.5f * ToFloat(codes[code])) << code;
    }
  }
}

TEST_F(MeantWeights, OfCodes) {
  std::vector<WeightFormat> formats = kCodes;
  formats.push_back({.dtype = DType::kF16});
  for (const WeightFormat& format : formats) {
    for (const Shape& shape : {Shape{130, 192}, Shape{7, 8}, Shape{33, 76}}) ExpectMeaning(format, shape, 5, 5);
  }
}

TEST_F(MeantWeights, OfBlocks) {
  for (const WeightFormat& format : BlockFormats()) {
    const int64_t block = BlockOf(format.dtype).elements;
    for (uint32_t seed = 0; seed < 10; ++seed) ExpectMeaning(format, {3, block}, 1, seed);
    ExpectMeaning(format, {130, 96 / block * block + block}, 5, 5);
    ExpectMeaning(format, {3, block}, 0, 5);
  }
}

TEST_F(MatMulMmaCudaTest, ARowsBitsAreItsOwn) {
  for (const auto& [format, shape] : kWeights) {
    SCOPED_TRACE(testing::Message() << ToString(format) << ", " << shape);
    ExpectOwnBits<BF16>({format, shape, {3, 0, 18}});
    ExpectOwnBits<float>({format, shape, {3, 0, 18}});
  }
}

}  // namespace
}  // namespace tokenferry

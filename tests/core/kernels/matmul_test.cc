#include <cmath>
#include <limits>

#include "tests/core/kernels/product_case.h"

namespace tokenferry {
namespace {

constexpr int64_t kShapes[][3] = {  // rows, outputs, inputs
    {0, 5, 33},   {1, 1, 1},     {1, 4, 16},    {1, 70, 300},  {1, 130, 129}, {2, 17, 31}, {3, 3, 128},  {4, 33, 257},
    {5, 1, 513},  {5, 7, 15},    {6, 64, 1100}, {7, 65, 160},  {9, 21, 47},   {64, 5, 33}, {65, 66, 40}, {130, 3, 520},
    {67, 18, 17}, {8, 12, 2048}, {1, 9, 1040},  {3, 10, 2049}, {64, 64, 40},  {64, 61, 17}};

class MatMulDTypes : public testing::TestWithParam<std::tuple<DType, DType, Compute>> {};

TEST_P(MatMulDTypes, EqualsTheReferenceBitForBit) {
  const auto [w_dtype, x_dtype, compute] = GetParam();
  std::mt19937 random(17);
  for (const auto& [rows, outs, cols] : kShapes) {
    SCOPED_TRACE(testing::Message() << rows << " x " << outs << " x " << cols);
    Case c = RandomCase(rows, outs, cols, w_dtype, random);
    c.x_dtype = x_dtype;
    c.compute = compute;
    if (rows % 2 == 1) c.accumulate = Accumulate::kYes;
    if (rows % 3 == 1) c.row_idx.clear();
    ExpectExact(c);
  }
}

// Each of the two results is a sum of the same K exact products of bf16 numbers along a path of at most
// d = 2 * ceil(K / 32) + 4 roundings, so each is within d * u * sum |x w| of the exact sum. u = 2^-23 allows for any
// faithful rounding. What is below 2^-126 counts as zero: at most 2^-126 per sum and product, and per input times the
// other factor.
TEST_P(MatMulDTypes, Avx512Bf16IsWithinItsBound) {
  const auto [w_dtype, x_dtype, compute] = GetParam();
  if (compute != Compute::kBF16 || !(SupportedIsas() & (1u << static_cast<int>(Isa::kAvx512Bf16)))) {
    GTEST_SKIP() << "only for bf16 on a machine with AVX-512 BF16";
  }
  std::mt19937 random(18);
  for (const auto& [rows, outs, cols] : kShapes) {
    Case c = RandomCase(rows, outs, cols, w_dtype, random);
    c.x_dtype = x_dtype;
    c.compute = compute;
    const std::vector<float> expected = RunProduct(c, ReferenceOptions());
    const std::vector<float> got = RunProduct(c, FastOptions(Isa::kAvx512Bf16, 2));
    Case absolute = c;  // all terms positive: their sum, from above
    for (float& x : absolute.x) x = std::fabs(x);
    for (size_t i = 0; i < absolute.w.bytes.size(); ++i) {
      if ((i + 1) % DTypeBytes(w_dtype) == 0) absolute.w.bytes[i] &= 0x7F;
    }
    for (float& s : absolute.w.scales) s = std::fabs(s);
    const std::vector<float> sums = RunProduct(absolute, ReferenceOptions());
    const double roundings = 2.0 * std::ceil(cols / 32.0) + 4, tiny = static_cast<double>(cols) * 32 * 0x1p-126;
    for (int64_t t = 0; t < rows; ++t) {
      for (int64_t o = 0; o < outs; ++o) {
        const size_t i = t * (outs + kExtraColumns) + o;
        ASSERT_LE(std::fabs(got[i] - expected[i]), 2 * roundings * 0x1p-23 * 1.01 * sums[i] + tiny) << t << " " << o;
      }
    }
  }
}

TEST_P(MatMulDTypes, ARowDoesNotDependOnItsBatch) {
  const auto [w_dtype, x_dtype, compute] = GetParam();
  std::mt19937 random(19);
  constexpr int64_t kOuts = 37, kCols = 700;
  Case batch = RandomCase(75, kOuts, kCols, w_dtype, random);
  batch.x_dtype = x_dtype;
  batch.compute = compute;
  for (Isa isa : SupportedIsaList()) {
    const std::vector<float> all = RunProduct(batch, FastOptions(isa));
    EXPECT_TRUE(SameBytes(RunProduct(batch, FastOptions(isa, 3)), all));
    for (int64_t rows : {1, 3, 6}) {
      for (int64_t t : {0, 40, 69}) {
        Case part = batch;
        part.num_rows = rows;
        part.row_idx.assign(batch.row_idx.begin() + t, batch.row_idx.begin() + t + rows);
        const std::vector<float> alone = RunProduct(part, FastOptions(isa, 2));
        for (int64_t r = 0; r < rows; ++r) {
          EXPECT_EQ(0, std::memcmp(&alone[r * (kOuts + kExtraColumns)], &all[(t + r) * (kOuts + kExtraColumns)],
                                   kOuts * sizeof(float)))
              << IsaName(isa) << " row " << t + r << " among " << rows;
        }
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, MatMulDTypes,
                         testing::Combine(testing::Values(DType::kF32, DType::kBF16, DType::kF16, DType::kF8E4M3),
                                          testing::Values(DType::kF32, DType::kBF16),
                                          testing::Values(Compute::kF32, Compute::kBF16)),
                         [](const auto& info) {
                           return std::string(DTypeName(std::get<0>(info.param))) + "_x" +
                                  std::string(DTypeName(std::get<1>(info.param))) +
                                  (std::get<2>(info.param) == Compute::kF32 ? "_f32" : "_bf16");
                         });

TEST(MatMul, FollowsTheDocumentedOrder) {
  // 1 + 2^-24 + 2^-24 is 1 in one chain, but not when the two small ones meet first: inputs 0 and 16 share a lane, 8 is
  // lane 0's first partner in the tree, and 1 and 9 meet before they join it.
  const auto sum_of_ones = [](std::vector<int64_t> small) {
    Case c;
    c.w.shape = {.format = {}, .rows = 1, .cols = 40};
    std::vector<float> w(40, 1.0f);
    c.w.bytes.resize(160);
    std::memcpy(c.w.bytes.data(), w.data(), 160);
    c.x.assign(40, 0.0f);
    c.x[0] = 1.0f;
    for (int64_t i : small) c.x[i] = 0x1p-24f;
    std::vector<float> results;
    for (Isa isa : ExactIsas(Compute::kF32)) results.push_back(RunProduct(c, FastOptions(isa))[0]);
    for (float r : results) EXPECT_EQ(r, results[0]);
    return results[0];
  };
  EXPECT_EQ(sum_of_ones({16, 32}), 1.0f);
  EXPECT_EQ(sum_of_ones({16, 8}), 1.0f);
  EXPECT_EQ(sum_of_ones({8, 4}), 1.0f);
  EXPECT_EQ(sum_of_ones({8, 24}), 1.0f + 0x1p-23f);
  EXPECT_EQ(sum_of_ones({1, 9}), 1.0f + 0x1p-23f);
  EXPECT_EQ(sum_of_ones({4, 12}), 1.0f + 0x1p-23f);
  EXPECT_EQ(sum_of_ones({4, 6}), 1.0f);
  EXPECT_EQ(sum_of_ones({2, 6}), 1.0f + 0x1p-23f);
}

// All products are tiny and negative: each lane is -0, and so is the sum, unless padding added a +0.
TEST(MatMul, KeepsTheSignsOfSumsThatUnderflow) {
  std::mt19937 random(20);
  for (int64_t rows : {1, 6}) {
    for (int64_t cols : {1, 5, 17, 40}) {
      Case c = RandomCase(rows, 9, cols, DType::kF32, random);
      for (float& x : c.x) x = std::fabs(x) * 1e-38f;
      auto* w = reinterpret_cast<float*>(c.w.bytes.data());
      for (int64_t i = 0; i < 9 * cols; ++i) w[i] = -std::fabs(w[i]) * 1e-7f;
      ExpectExact(c);
    }
  }
}

TEST(MatMul, ReadsRowSlicesOfABlockedMatrix) {
  std::mt19937 random(21);
  const HostWeight whole = RandomWeight(DType::kF8E4M3, 300, 150, random);
  Case c;
  c.w = whole;
  c.x = RandomFloats(150, random);
  const std::vector<float> all = RunProduct(c, ReferenceOptions());
  for (int64_t begin : {0, 100, 127, 128, 255}) {
    Case slice = c;
    slice.w.shape.rows = 45;
    slice.w.shape.row_offset = begin;
    slice.w.bytes.assign(whole.bytes.begin() + begin * 150, whole.bytes.begin() + (begin + 45) * 150);
    ExpectExact(slice);
    const std::vector<float> part = RunProduct(slice, ReferenceOptions());
    EXPECT_EQ(0, std::memcmp(part.data(), &all[begin], 45 * sizeof(float)));
  }
}

TEST(MatMul, TakesAnyBlockSize) {
  std::mt19937 random(22);
  constexpr int32_t kBlocks[][2] = {{1, 1},   {20, 20}, {32, 32}, {48, 48}, {64, 64},  {1000, 1000},
                                    {1, 128}, {1, 600}, {50, 32}, {3, 64},  {128, 16}, {7, 20}};
  for (const auto& [block_rows, block_cols] : kBlocks) {
    for (int64_t rows : {2, 9}) {
      for (Compute compute : {Compute::kF32, Compute::kBF16}) {
        Case c = RandomCase(rows, 50, 600, DType::kF8E4M3, random);
        c.w = RandomWeight(DType::kF8E4M3, 50, 600, random, block_rows, block_cols);
        c.compute = compute;
        ExpectExact(c);
        ExpectRowsAlone(c);
      }
    }
  }
}

TEST(MatMul, TakesAnyScale) {
  std::mt19937 random(23);
  for (float scale : {0x1p125f, -0x1p120f, 0x1p-140f, 0.0f, 1e-30f, std::numeric_limits<float>::infinity()}) {
    for (int64_t rows : {1, 5}) {
      Case c = RandomCase(rows, 6, 200, DType::kF8E4M3, random);
      for (uint8_t& code : c.w.bytes) code = static_cast<uint8_t>(0x01 + random() % 0x30);  // positive, at most 2
      for (float& x : c.x) x = std::fabs(x) + 0.125f;                                       // no inf - inf
      c.w.scales[1] = scale;
      ExpectExact(c);
    }
  }
}

TEST(MatMul, ANaNWeightSpoilsItsOutputAlone) {
  std::mt19937 random(24);
  for (DType dtype : {DType::kF32, DType::kBF16, DType::kF16, DType::kF8E4M3}) {
    for (Compute compute : {Compute::kF32, Compute::kBF16}) {
      for (int64_t rows : {1, 7}) {
        Case c = RandomCase(rows, 6, 300, dtype, random);
        c.compute = compute;
        const int64_t bytes = DTypeBytes(dtype), at = (3 * 300 + 211) * bytes;
        for (int64_t b = 0; b < bytes; ++b) c.w.bytes[at + b] = 0xFF;
        for (Isa isa : SupportedIsaList()) {
          const std::vector<float> y = RunProduct(c, FastOptions(isa));
          for (int64_t t = 0; t < rows; ++t) {
            for (int64_t o = 0; o < 6; ++o) EXPECT_EQ(std::isnan(y[t * (6 + kExtraColumns) + o]), o == 3);
          }
        }
      }
    }
  }
}

// ---- groups ----

struct GroupedCase {
  std::vector<int64_t> offsets;
  std::vector<HostWeight> weights;
  std::vector<float> x;
  std::vector<int32_t> row_idx;
  Compute compute = Compute::kF32;
};

GroupedCase RandomGroups(std::vector<int64_t> rows_per_group, DType dtype, int64_t outs, int64_t cols,
                         std::mt19937& random) {
  GroupedCase c;
  c.offsets = {0};
  for (int64_t n : rows_per_group) {
    c.offsets.push_back(c.offsets.back() + n);
    c.weights.push_back(RandomWeight(dtype, outs, cols, random));
  }
  constexpr int64_t kXRows = 11;
  c.x = RandomFloats(kXRows * cols, random);
  for (int64_t i = 0; i < c.offsets.back(); ++i) c.row_idx.push_back(static_cast<int32_t>(random() % kXRows));
  return c;
}

std::vector<float> RunProduct(const GroupedCase& c, const CpuDeviceOptions& options) {
  TestDevice device(options);
  std::vector<WeightView> views;
  for (const HostWeight& w : c.weights) views.push_back(w.Upload(device));
  const int64_t outs = c.weights[0].shape.rows, cols = c.weights[0].shape.cols;
  float* y = device.Allocate<float>(c.offsets.back() * outs);
  GroupedMatMulArgs args;
  args.x = device.Upload(c.x);
  args.x_stride = cols;
  args.row_idx = device.Upload(c.row_idx);
  args.offsets = device.Upload(c.offsets);
  args.num_groups = static_cast<int64_t>(c.weights.size());
  args.weights = {views.front(), device.Upload(views)};
  args.max_rows = c.offsets.back();
  args.y = y;
  args.y_stride = outs;
  args.compute = c.compute;
  GroupedMatMul(device.stream(), args);
  return device.Download(y, c.offsets.back() * outs);
}

TEST(GroupedMatMul, EqualsTheReferenceInEveryDeviceMode) {
  std::mt19937 random(25);
  for (DType dtype : {DType::kF32, DType::kBF16, DType::kF8E4M3}) {
    for (const std::vector<int64_t>& rows :
         {std::vector<int64_t>{0, 0}, {1}, {3, 0, 1, 70, 0, 5}, {0, 2, 129}, {1, 1, 1, 1, 1, 1, 1, 1}}) {
      GroupedCase c = RandomGroups(rows, dtype, 35, 270, random);
      const std::vector<float> expected = RunProduct(c, ReferenceOptions());
      for (Isa isa : ExactIsas(Compute::kF32)) {
        for (const CpuDeviceOptions& options : AllDeviceModes(isa)) {
          EXPECT_TRUE(SameBytes(RunProduct(c, options), expected)) << IsaName(isa);
        }
      }
    }
  }
}

TEST(GroupedMatMul, EqualsOneProductPerGroup) {
  std::mt19937 random(26);
  for (Isa isa : SupportedIsaList()) {
    GroupedCase c = RandomGroups({2, 9, 0, 66}, DType::kBF16, 20, 100, random);
    c.compute = Compute::kBF16;
    const std::vector<float> all = RunProduct(c, FastOptions(isa, 3));
    for (size_t g = 0; g < c.weights.size(); ++g) {
      Case one;
      one.num_rows = c.offsets[g + 1] - c.offsets[g];
      one.w = c.weights[g];
      one.x = c.x;
      one.row_idx.assign(c.row_idx.begin() + c.offsets[g], c.row_idx.begin() + c.offsets[g + 1]);
      one.compute = c.compute;
      if (one.num_rows == 0) continue;
      const std::vector<float> y = RunProduct(one, FastOptions(isa));
      for (int64_t t = 0; t < one.num_rows; ++t) {
        EXPECT_EQ(0, std::memcmp(&y[t * (20 + kExtraColumns)], &all[(c.offsets[g] + t) * 20], 20 * sizeof(float)));
      }
    }
  }
}

// ---- formats ----

// Never read as something else: the program ends with the format's name.
TEST(MatMulDeathTest, RefusesUnknownFormats) {
  testing::FLAGS_gtest_death_test_style = "threadsafe";
  std::mt19937 random(27);
  for (const CpuDeviceOptions& options : {ReferenceOptions(), FastOptions(SupportedIsaList().back())}) {
    Case c = RandomCase(2, 4, 64, DType::kF8E4M3, random);
    c.w.shape.format.dtype = DType::kF8E5M2;
    EXPECT_DEATH(RunProduct(c, options), "F8_E5M2 in blocks of 128 x 128 with F32 scales");
    GroupedCase groups = RandomGroups({1, 2}, DType::kF8E4M3, 4, 64, random);
    groups.weights[1].shape.format.scale_dtype = DType::kUE8M0;
    EXPECT_DEATH(RunProduct(groups, options), "F8_E4M3 in blocks of 128 x 128 with F8_E8M0 scales");
  }
}

}  // namespace
}  // namespace tokenferry

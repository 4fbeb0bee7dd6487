// Products with planar codes, every coding, type of scale and size of group; and with the blocks of GGUF files.
#include <array>

#include "tests/core/kernels/product_case.h"
#include "tests/support/random_blocks.h"

namespace tokenferry {
namespace {

// Groups of a row and of one input, whole steps and odd ones, a partial last group; few rows and many; rows that are
// packed in several pieces, which begin within a group.
TEST(MatMul, PlanarCodesEqualTheReferenceBitForBit) {
  std::mt19937 random(29);
  using enum WeightCoding;
  const std::pair<DType, WeightCoding> kCodings[] = {
      {DType::kI8, kNumber}, {DType::kU8, kZeroPoint}, {DType::kU4, kZeroPoint}, {DType::kU4, kInt4},
      {DType::kU4, kE2M1},   {DType::kU4, kIq4Nl},     {DType::kU2, kZeroPoint}};
  constexpr DType kScales[] = {DType::kF16, DType::kBF16, DType::kF32};
  constexpr int64_t kSizes[][4] = {// rows, outputs, inputs, group
                                   {1, 1, 8, 8},      {1, 70, 320, 32}, {9, 21, 96, 128}, {3, 5, 1100, 128},
                                   {65, 66, 72, 16},  {2, 17, 520, 64}, {1, 33, 40, 1},   {8, 7, 200, 20},
                                   {130, 3, 640, 32}, {64, 64, 48, 24}, {3, 9, 2064, 48}, {5, 4, 2064, 1040}};
  size_t n = 0;
  for (const auto& [dtype, coding] : kCodings) {
    for (const auto& [rows, outs, cols, group] : kSizes) {
      for (Compute compute : {Compute::kF32, Compute::kBF16}) {
        const DType scales = coding == kE2M1 ? DType::kUE8M0 : kScales[n++ % 3];
        const auto format = PlanarWeights::Of(dtype, coding, scales, static_cast<int32_t>(group));
        SCOPED_TRACE(testing::Message() << ToString(format) << ": " << rows << " x " << outs << " x " << cols);
        Case c = RandomCase(rows, outs, cols, DType::kF32, random);
        c.w = RandomPlanarWeight(format, outs, cols, random);
        c.compute = compute;
        ExpectExact(c);
        ExpectRowsAlone(c);
      }
    }
  }
}

// The whole range of a scale and of a product, which may underflow and overflow.
TEST(MatMul, PlanarCodesTakeAnyScale) {
  std::mt19937 random(30);
  for (float scale : {0x1p122f, -0x1p120f, 0x1p-149f, 0x1p-126f, 0.0f, 3e-39f, 1e38f}) {
    Case c = RandomCase(5, 6, 96, DType::kF32, random);
    c.w = RandomPlanarWeight(PlanarWeights::Of(DType::kU8, WeightCoding::kZeroPoint, DType::kF32, 32), 6, 96, random);
    std::fill(c.w.zero_points.begin(), c.w.zero_points.end(), uint8_t{0});  // no inf - inf
    for (float& x : c.x) x = std::fabs(x) + 0.125f;
    std::memcpy(&c.w.planar_scales[4], &scale, 4);
    ExpectExact(c);
  }
}

// As Avx512Bf16IsWithinItsBound: vdpbf16ps has an order of its own, but reads the same weights. A row with one input
// that is not zero is one product, which has no order.
TEST(MatMul, Avx512Bf16ReadsTheSamePlanarValues) {
  if (!(SupportedIsas() & (1u << static_cast<int>(Isa::kAvx512Bf16)))) GTEST_SKIP() << "needs AVX-512 BF16";
  std::mt19937 random(31);
  using enum WeightCoding;
  for (const WeightFormat& format : {PlanarWeights::Of(DType::kU4, kE2M1, DType::kUE8M0, 32),
                                     PlanarWeights::Of(DType::kU4, kZeroPoint, DType::kF16, 64),
                                     PlanarWeights::Of(DType::kI8, kNumber, DType::kBF16, 128),
                                     PlanarWeights::Of(DType::kU2, kZeroPoint, DType::kF32, 16),
                                     PlanarWeights::Of(DType::kU4, kInt4, DType::kBF16, 16),
                                     PlanarWeights::Of(DType::kU4, kZeroPoint, DType::kF32, 48),
                                     PlanarWeights::Of(DType::kU4, kIq4Nl, DType::kF32, 8),
                                     PlanarWeights::Of(DType::kU8, kZeroPoint, DType::kF16, 32)}) {
    Case c = RandomCase(72, 33, 72, DType::kF32, random);
    c.w = RandomPlanarWeight(format, 33, 72, random);
    c.compute = Compute::kBF16;
    c.row_idx.clear();
    for (int64_t t = 0; t < c.x_rows; ++t) {
      for (int64_t i = 0; i < 72; ++i) c.x[t * 72 + i] = i == t % 72 ? 1.0f : 0.0f;
    }
    EXPECT_TRUE(SameBytes(RunProduct(c, FastOptions(Isa::kAvx512Bf16)), RunProduct(c, ReferenceOptions())))
        << ToString(format);
  }
}

// What GGUF files store, for few rows and many; every type, rows of one block and of several pieces, the last of them
// partial; and one product at a time on AVX-512 BF16.
TEST(MatMul, BlocksEqualTheReferenceBitForBit) {
  std::mt19937 random(33);
  const auto random_weight = [&](DType dtype, int64_t outs, int64_t cols) {
    HostWeight w;
    w.shape = {.format = {.dtype = dtype}, .rows = outs, .cols = cols};
    w.bytes = RandomBlocks(dtype, BytesOf(w.shape.format, outs, cols).data, random);
    return w;
  };
  for (const DType dtype : BlockTypes()) {
    const int64_t block = BlockOf(dtype).elements, cols = block == 32 ? 96 : 512;
    const int64_t long_cols = block == 32 ? 1056 : 1280;
    using Shape = std::array<int64_t, 3>;
    for (const auto& [rows, outs, cols] :
         {Shape{1, 1, cols}, {1, 70, block}, {9, 21, long_cols}, {2, 5, long_cols + block}, {66, 65, cols}}) {
      for (Compute compute : {Compute::kF32, Compute::kBF16}) {
        SCOPED_TRACE(testing::Message() << DTypeName(dtype) << ": " << rows << " x " << outs << " x " << cols);
        Case c = RandomCase(rows, outs, cols, DType::kF32, random);
        c.w = random_weight(dtype, outs, cols);
        c.compute = compute;
        ExpectExact(c);
        ExpectRowsAlone(c);
      }
    }
    if (!(SupportedIsas() & (1u << static_cast<int>(Isa::kAvx512Bf16)))) continue;
    Case c = RandomCase(cols, 33, cols, DType::kF32, random);
    c.w = random_weight(dtype, 33, cols);
    c.compute = Compute::kBF16;
    c.row_idx.clear();
    for (int64_t i = 0; i < cols * cols; ++i) c.x[i] = i % (cols + 1) == 0 ? 1.0f : 0.0f;
    EXPECT_TRUE(SameBytes(RunProduct(c, FastOptions(Isa::kAvx512Bf16)), RunProduct(c, ReferenceOptions())))
        << DTypeName(dtype);
  }
}

TEST(MatMul, ReadsRowSlicesOfPlanarCodes) {
  std::mt19937 random(32);
  const HostWeight whole =
      RandomPlanarWeight(PlanarWeights::Of(DType::kU4, WeightCoding::kZeroPoint, DType::kF16, 32), 50, 96, random);
  Case c;
  c.w = whole;
  c.x = RandomFloats(96, random);
  const std::vector<float> all = RunProduct(c, ReferenceOptions());
  Case slice = c;
  slice.w.shape.rows = 11;
  slice.w.shape.row_offset = 20;
  slice.w.bytes.assign(whole.bytes.begin() + 20 * 48, whole.bytes.begin() + 31 * 48);
  ExpectExact(slice);
  EXPECT_EQ(0, std::memcmp(RunProduct(slice, ReferenceOptions()).data(), &all[20], 11 * sizeof(float)));
}

}  // namespace
}  // namespace tokenferry

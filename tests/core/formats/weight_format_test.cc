#include "core/formats/weight_format.h"

#include <gtest/gtest.h>

#include <vector>

namespace tokenferry {
namespace {

constexpr WeightFormat kF4Groups = {
    .dtype = DType::kF4, .scale_dtype = DType::kUE8M0, .block_rows = 1, .block_cols = 32};
constexpr WeightFormat kMxfp4 = PlanarWeights::Of(DType::kU4, WeightCoding::kE2M1, DType::kUE8M0, 32);
constexpr WeightFormat kAwq = PlanarWeights::Of(DType::kU4, WeightCoding::kZeroPoint, DType::kF16, 128);

TEST(WeightFormat, KnowsWhatKernelsRead) {
  for (const WeightFormat& format :
       {WeightFormat{}, WeightFormat{.dtype = DType::kBF16}, WeightFormat{.dtype = DType::kF16},
        F8BlockWeights::Of(128, 128), F8BlockWeights::Of(1, 7), kMxfp4, kAwq,
        PlanarWeights::Of(DType::kI8, WeightCoding::kNumber, DType::kBF16, 96),
        PlanarWeights::Of(DType::kU8, WeightCoding::kZeroPoint, DType::kF32, 64),
        PlanarWeights::Of(DType::kU2, WeightCoding::kZeroPoint, DType::kF16, 32),
        WeightFormat{.dtype = DType::kQ4_K}}) {
    EXPECT_TRUE(WeightFormats::Contains(format)) << ToString(format);
  }
}

TEST(WeightFormat, NumbersOfCodesAreThoseOfTheTables) {
  for (const WeightCoding coding : {WeightCoding::kInt4, WeightCoding::kE2M1, WeightCoding::kIq4Nl}) {
    for (int code = 0; code < 16; ++code) EXPECT_EQ(CodeNumber(coding, code), CodeTable(coding)[code]) << code;
  }
}

// Each differs in one respect from a format that is known, or is one that other programs use.
TEST(WeightFormatDeathTest, RefusesEverythingElse) {
  WeightFormat zero_points = F8BlockWeights::Of(1, 128), table = zero_points, narrow_scales = zero_points;
  zero_points.coding = WeightCoding::kZeroPoint;
  table.coding = WeightCoding::kInt4;
  narrow_scales.scale_dtype = DType::kBF16;
  const std::pair<WeightFormat, const char*> cases[] = {
      {{.dtype = DType::kF8E4M3}, "F8_E4M3"},  // no scales
      {{.dtype = DType::kF8E5M2, .block_rows = 128, .block_cols = 128}, "F8_E5M2 in blocks of 128 x 128"},
      {{.dtype = DType::kBF16, .block_rows = 1, .block_cols = 128}, "BF16 in blocks of 1 x 128"},
      {F8BlockWeights::Of(0, 128), "F8_E4M3 in blocks of 0 x 128"},
      {F8BlockWeights::Of(128, -1), "F8_E4M3 in blocks of 128 x -1"},
      {zero_points, "F8_E4M3 with zero points in blocks of 1 x 128 with F32 scales"},
      {table, "F8_E4M3 codes of int4 in blocks of 1 x 128 with F32 scales"},
      {narrow_scales, "F8_E4M3 in blocks of 1 x 128 with BF16 scales"},
      {{.dtype = DType::kQ8_0, .block_rows = 1, .block_cols = 32}, "Q8_0 in blocks of 1 x 32"},
      {kF4Groups, "F4 in blocks of 1 x 32 with F8_E8M0 scales"},
      {PlanarWeights::Of(DType::kU4, WeightCoding::kE2M1, DType::kF32, 32), "U4 codes of E2M1 in blocks of 1 x 32"},
      {PlanarWeights::Of(DType::kU4, WeightCoding::kNumber, DType::kF32, 32), "U4 in blocks of 1 x 32"},
      {PlanarWeights::Of(DType::kI8, WeightCoding::kZeroPoint, DType::kF32, 32), "I8 with zero points in blocks"},
      {PlanarWeights::Of(DType::kU4, WeightCoding::kInt4, DType::kF8E4M3, 16), "with F8_E4M3 scales"},
      {PlanarWeights::Of(DType::kU4, WeightCoding::kInt4, DType::kF32, 0), "U4 codes of int4 in blocks of 1 x 0"},
  };
  for (const auto& [format, name] : cases) {
    EXPECT_FALSE(WeightFormats::Contains(format)) << name;
    EXPECT_DEATH(VisitWeightFormat(format, [](auto) {}), name);
  }
}

TEST(WeightFormatDeathTest, AViewHasWhatItsFormatNeeds) {
  const float scale = 1;
  const WeightView view = {.format = F8BlockWeights::Of(128, 128), .rows = 2, .cols = 3, .scales = &scale};
  CheckWeight(view);
  WeightView bad = view;
  bad.scales = nullptr;
  EXPECT_DEATH(CheckWeight(bad), "scales");
  const uint8_t zero_point = 0;
  bad = view;
  bad.zero_points = &zero_point;
  EXPECT_DEATH(CheckWeight(bad), "zero_points");
}

TEST(WeightView, SlicesAtWholeBytes) {
  const std::vector<uint8_t> bytes(64);
  const WeightView packed = {.format = kMxfp4, .data = bytes.data(), .rows = 4, .cols = 32, .row_offset = 2};
  EXPECT_EQ(packed.row_bytes(), 16);
  const WeightView slice = packed.Rows(3, 1);
  EXPECT_EQ(slice.data, bytes.data() + 48);
  EXPECT_EQ(slice.row_offset, 5);
  EXPECT_EQ(slice.rows, 1);
}

// By hand, from the definitions of the formats.
TEST(PlanarWeights, AValueIsAnIntegerTimesItsGroupsScale) {
  const auto value = [](const WeightFormat& format, std::vector<uint8_t> codes, const void* scales, int64_t i,
                        const uint8_t* zero_points = nullptr) {
    const WeightView w = {.format = format,
                          .data = codes.data(),
                          .rows = 1,
                          .cols = 8 * static_cast<int64_t>(codes.size()) / DTypeBits(format.dtype),
                          .scales = scales,
                          .scale_stride = 2,
                          .zero_points = zero_points};
    CheckWeight(w);
    return PlanarWeights::Value(w, 0, i);
  };
  const uint8_t e8m0[2] = {129, 0};
  const WeightFormat mxfp4 = PlanarWeights::Of(DType::kU4, WeightCoding::kE2M1, DType::kUE8M0, 2);
  EXPECT_EQ(value(mxfp4, {0xA3, 0x1F}, e8m0, 0), 6.0f);
  EXPECT_EQ(value(mxfp4, {0xA3, 0x1F}, e8m0, 1), -4.0f);
  EXPECT_EQ(value(mxfp4, {0xA3, 0x1F}, e8m0, 2), -6 * 0x1p-127f);
  EXPECT_EQ(value(mxfp4, {0xA3, 0x1F}, e8m0, 3), 0x1p-128f);
  const float f32[2] = {0.5f, 3.0f};
  const uint8_t zero_points[2] = {16, 200};
  EXPECT_EQ(value(PlanarWeights::Of(DType::kU4, WeightCoding::kZeroPoint, DType::kF32, 1), {0x2F}, f32, 0, zero_points),
            -0.5f);
  EXPECT_EQ(
      value(PlanarWeights::Of(DType::kU8, WeightCoding::kZeroPoint, DType::kF32, 1), {1, 255}, f32, 1, zero_points),
      165.0f);
  EXPECT_EQ(value(PlanarWeights::Of(DType::kI8, WeightCoding::kNumber, DType::kF32, 1), {1, 0x80}, f32, 1), -384.0f);
  EXPECT_EQ(value(PlanarWeights::Of(DType::kU4, WeightCoding::kInt4, DType::kF32, 2), {0x70, 0x0F}, f32, 3), -24.0f);
  EXPECT_EQ(value(PlanarWeights::Of(DType::kU4, WeightCoding::kIq4Nl, DType::kF32, 2), {0x70, 0x0F}, f32, 2), 339.0f);
  const uint8_t twos[2] = {2, 2};
  const auto u2 = PlanarWeights::Of(DType::kU2, WeightCoding::kZeroPoint, DType::kF32, 2);
  EXPECT_EQ(value(u2, {0xC6}, f32, 1, twos), -0.5f);
  EXPECT_EQ(value(u2, {0xC6}, f32, 3, twos), 3.0f);
  const uint16_t bf16[2] = {0x3F80, 0xC000}, f16[2] = {0x3C00, 0x0001};
  EXPECT_EQ(value(PlanarWeights::Of(DType::kI8, WeightCoding::kNumber, DType::kBF16, 1), {5, 3}, bf16, 1), -6.0f);
  EXPECT_EQ(value(PlanarWeights::Of(DType::kI8, WeightCoding::kNumber, DType::kF16, 1), {5, 3}, f16, 1), 3 * 0x1p-24f);
}

TEST(WeightFormat, CountsBytes) {
  EXPECT_EQ(BytesOf(WeightFormat{.dtype = DType::kF16}, 3, 5), (WeightBytes{30}));
  EXPECT_EQ(BytesOf(F8BlockWeights::Of(128, 128), 129, 300), (WeightBytes{129 * 300, 2 * 3 * 4}));
  EXPECT_EQ(BytesOf(kMxfp4, 6, 96), (WeightBytes{288, 18}));
  EXPECT_EQ(BytesOf(kAwq, 6, 200), (WeightBytes{600, 6 * 2 * 2, 12}));
}

TEST(DType, CountsBits) {
  EXPECT_EQ(DTypeBits(DType::kF4), 4);
  EXPECT_EQ(DTypeBits(DType::kF6E3M2), 6);
  EXPECT_EQ(DTypeBytes(DType::kC64), 8);
  EXPECT_EQ(DTypeFromName("F8_E8M0"), DType::kUE8M0);
  EXPECT_EQ(DTypeFromName("F4"), DType::kF4);
  EXPECT_EQ(DTypeFromName("F5"), std::nullopt);
  EXPECT_EQ(DTypeFromName("U4"), std::nullopt);  // files have no such type
}

}  // namespace
}  // namespace tokenferry

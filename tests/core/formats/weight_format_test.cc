#include "core/formats/weight_format.h"

#include <gtest/gtest.h>

#include <vector>

namespace tokenferry {
namespace {

constexpr WeightFormat kF4Groups = {
    .dtype = DType::kF4, .scale_dtype = DType::kUE8M0, .block_rows = 1, .block_cols = 32};

TEST(WeightFormat, KnowsWhatKernelsRead) {
  for (const WeightFormat& format :
       {WeightFormat{}, WeightFormat{.dtype = DType::kBF16}, F8BlockWeights::Of(128, 128), F8BlockWeights::Of(1, 7)}) {
    EXPECT_TRUE(WeightFormats::Contains(format)) << ToString(format);
  }
}

// Each differs in one respect from a format that is known, or is one that other programs use.
TEST(WeightFormatDeathTest, RefusesEverythingElse) {
  WeightFormat zero_points = F8BlockWeights::Of(1, 128), table = zero_points, narrow_scales = zero_points;
  zero_points.coding = WeightCoding::kZeroPoint;
  table.coding = WeightCoding::kTable;
  narrow_scales.scale_dtype = DType::kBF16;
  const std::pair<WeightFormat, const char*> cases[] = {
      {{.dtype = DType::kF16}, "F16"},
      {{.dtype = DType::kF8E4M3}, "F8_E4M3"},  // no scales
      {{.dtype = DType::kF8E5M2, .block_rows = 128, .block_cols = 128}, "F8_E5M2 in blocks of 128 x 128"},
      {{.dtype = DType::kBF16, .block_rows = 1, .block_cols = 128}, "BF16 in blocks of 1 x 128"},
      {F8BlockWeights::Of(0, 128), "F8_E4M3 in blocks of 0 x 128"},
      {F8BlockWeights::Of(128, -1), "F8_E4M3 in blocks of 128 x -1"},
      {zero_points, "F8_E4M3 with zero points in blocks of 1 x 128 with F32 scales"},
      {table, "F8_E4M3 codes of a table in blocks of 1 x 128 with F32 scales"},
      {narrow_scales, "F8_E4M3 in blocks of 1 x 128 with BF16 scales"},
      {kF4Groups, "F4 in blocks of 1 x 32 with F8_E8M0 scales"},
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
  bad = view;
  bad.table = &scale;
  EXPECT_DEATH(CheckWeight(bad), "table");
  bad = view;
  bad.zero_points = &scale;
  EXPECT_DEATH(CheckWeight(bad), "zero_points");
}

TEST(WeightView, SlicesAtWholeBytes) {
  const std::vector<uint8_t> bytes(64);
  const WeightView packed = {.format = kF4Groups, .data = bytes.data(), .rows = 4, .cols = 32, .row_offset = 2};
  EXPECT_EQ(packed.row_bytes(), 16);
  const WeightView slice = packed.Rows(3, 1);
  EXPECT_EQ(slice.data, bytes.data() + 48);
  EXPECT_EQ(slice.row_offset, 5);
  EXPECT_EQ(slice.rows, 1);
}

TEST(DType, CountsBits) {
  EXPECT_EQ(DTypeBits(DType::kF4), 4);
  EXPECT_EQ(DTypeBits(DType::kF6E3M2), 6);
  EXPECT_EQ(DTypeBytes(DType::kC64), 8);
  EXPECT_EQ(DTypeFromName("F8_E8M0"), DType::kUE8M0);
  EXPECT_EQ(DTypeFromName("F4"), DType::kF4);
  EXPECT_EQ(DTypeFromName("F5"), std::nullopt);
}

}  // namespace
}  // namespace tokenferry

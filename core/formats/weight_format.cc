#include "core/formats/weight_format.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "core/check.h"
#include "core/round_up.h"

namespace tokenferry {
namespace {

constexpr int8_t kInt4Table[16] = {-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7};
constexpr int8_t kE2M1Table[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};
constexpr int8_t kIq4NlTable[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

absl::string_view CodingName(WeightCoding coding) {
  switch (coding) {
    case WeightCoding::kNumber:
      return "";
    case WeightCoding::kZeroPoint:
      return " with zero points";
    case WeightCoding::kInt4:
      return " codes of int4";
    case WeightCoding::kE2M1:
      return " codes of E2M1";
    case WeightCoding::kIq4Nl:
      return " codes of IQ4_NL";
  }
  return " of an unknown coding";
}

}  // namespace

const int8_t* CodeTable(WeightCoding coding) {
  switch (coding) {
    case WeightCoding::kInt4:
      return kInt4Table;
    case WeightCoding::kE2M1:
      return kE2M1Table;
    case WeightCoding::kIq4Nl:
      return kIq4NlTable;
    default:
      return nullptr;
  }
}

WeightBytes BytesOf(const WeightFormat& f, int64_t rows, int64_t cols) {
  WeightBytes bytes{.data = rows * BytesOfElements(f.dtype, cols)};
  if (!f.has_scales()) return bytes;
  const int64_t num_blocks = CeilDiv(rows, f.block_rows) * CeilDiv(cols, f.block_cols);
  bytes.scales = num_blocks * DTypeBytes(f.scale_dtype);
  if (f.coding == WeightCoding::kZeroPoint) bytes.zero_points = num_blocks;
  return bytes;
}

bool PlanarWeights::Matches(const WeightFormat& f) {
  if (f.block_rows != 1 || f.block_cols <= 0) return false;
  const DType s = f.scale_dtype;
  if (s != DType::kF32 && s != DType::kBF16 && s != DType::kF16 && s != DType::kUE8M0) return false;
  switch (f.coding) {
    case WeightCoding::kNumber:
      return f.dtype == DType::kI8;
    case WeightCoding::kZeroPoint:
      return f.dtype == DType::kU8 || f.dtype == DType::kU4 || f.dtype == DType::kU2;
    case WeightCoding::kE2M1:
      return f.dtype == DType::kU4 && s == DType::kUE8M0;  // times its unit, any such scale is exact
    case WeightCoding::kInt4:
    case WeightCoding::kIq4Nl:
      return f.dtype == DType::kU4;
  }
  return false;
}

std::string ToString(const WeightFormat& f) {
  std::string text(DTypeName(f.dtype));
  absl::StrAppend(&text, CodingName(f.coding));
  if (!f.has_scales()) return text;
  return absl::StrCat(text, " in blocks of ", f.block_rows, " x ", f.block_cols, " with ", DTypeName(f.scale_dtype),
                      " scales");
}

void UnknownWeightFormat(const WeightFormat& format) {
  internal::CheckFailed(__FILE__, __LINE__, "the weight format is one that kernels read", ToString(format));
}

void CheckWeight(const WeightView& w) {
  if (!WeightFormats::Contains(w.format)) UnknownWeightFormat(w.format);
  TF_CHECK_EQ(w.cols % BlockOf(w.dtype()).elements, 0);
  if (PlanarWeights::Matches(w.format)) TF_CHECK_GT(w.cols, 0);
  TF_CHECK_EQ(w.format.has_scales(), w.scales != nullptr);
  TF_CHECK_EQ(w.format.coding == WeightCoding::kZeroPoint, w.zero_points != nullptr);
}

}  // namespace tokenferry

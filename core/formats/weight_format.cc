#include "core/formats/weight_format.h"

#include "absl/strings/str_cat.h"
#include "core/check.h"

namespace tokenferry {

std::string ToString(const WeightFormat& f) {
  std::string text(DTypeName(f.dtype));
  if (f.coding == WeightCoding::kZeroPoint) text += " with zero points";
  if (f.coding == WeightCoding::kTable) text += " codes of a table";
  if (!f.has_scales()) return text;
  return absl::StrCat(text, " in blocks of ", f.block_rows, " x ", f.block_cols, " with ", DTypeName(f.scale_dtype),
                      " scales");
}

void UnknownWeightFormat(const WeightFormat& format) {
  internal::CheckFailed(__FILE__, __LINE__, "the weight format is one that kernels read", ToString(format));
}

void CheckWeight(const WeightView& w) {
  if (!WeightFormats::Contains(w.format)) UnknownWeightFormat(w.format);
  TF_CHECK_EQ(DTypeBits(w.dtype()) * w.cols % 8, 0);
  TF_CHECK_EQ(w.format.has_scales(), w.scales != nullptr);
  TF_CHECK_EQ(w.format.coding == WeightCoding::kZeroPoint, w.zero_points != nullptr);
  TF_CHECK_EQ(w.format.coding == WeightCoding::kTable, w.table != nullptr);
}

}  // namespace tokenferry

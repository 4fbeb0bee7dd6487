#include "runtime/model/expert_dtype.h"

#include "absl/strings/str_cat.h"
#include "core/check.h"

namespace tokenferry {

absl::string_view ExpertDtypeName(ExpertDtype dtype) {
  constexpr absl::string_view kNames[] = {"stored", "bf16", "fp8", "int8", "int4", "int2"};
  return kNames[static_cast<int>(dtype)];
}

WeightFormat FormatOf(ExpertDtype dtype) {
  switch (dtype) {
    case ExpertDtype::kBF16:
      return {.dtype = DType::kBF16};
    case ExpertDtype::kF8:
      return F8BlockWeights::Of(1, 128);
    case ExpertDtype::kInt8:
      return PlanarWeights::Of(DType::kI8, WeightCoding::kNumber, DType::kBF16, 128);
    case ExpertDtype::kInt4:
      return PlanarWeights::Of(DType::kU4, WeightCoding::kZeroPoint, DType::kBF16, 32);
    case ExpertDtype::kInt2:
      return PlanarWeights::Of(DType::kU2, WeightCoding::kZeroPoint, DType::kBF16, 32);
    case ExpertDtype::kStored:
      break;
  }
  TF_CHECK(dtype != ExpertDtype::kStored);
  return {};
}

absl::Status SetExpertDtype(ExpertDtype dtype, TensorPlan& plan) {
  if (dtype == ExpertDtype::kStored) return absl::OkStatus();
  const WeightFormat format = FormatOf(dtype);
  for (TensorSpec& spec : plan.tensors) {
    if (spec.expert < 0 || InfoOf(spec.role).storage != Storage::kQuantised) continue;
    if (spec.cols() * DTypeBits(format.dtype) % 8 != 0) {
      return absl::UnimplementedError(absl::StrCat("tensor '", spec.name(), "' has ", spec.cols(), " inputs, which in ",
                                                   ExpertDtypeName(dtype), " do not fill whole bytes"));
    }
    spec.format = format;
  }
  return absl::OkStatus();
}

}  // namespace tokenferry

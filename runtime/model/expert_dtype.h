// Routed experts in fewer bits than they are stored in (--expert-dtype): quantised while they are loaded.
#pragma once

#include <array>

#include "absl/strings/string_view.h"
#include "core/status.h"
#include "runtime/model/tensor_plan.h"

namespace tokenferry {

enum class ExpertDtype : uint8_t { kStored, kBF16, kF8, kInt8, kInt4, kInt2 };
inline constexpr std::array<ExpertDtype, 5> kExpertDtypes = {ExpertDtype::kBF16, ExpertDtype::kF8, ExpertDtype::kInt8,
                                                             ExpertDtype::kInt4, ExpertDtype::kInt2};
absl::string_view ExpertDtypeName(ExpertDtype dtype);  // "stored", "bf16", "fp8", "int8", "int4", "int2"

// fp8: E4M3 and int8, an F32 and a BF16 scale for 128 values of a row. int4 and int2: a BF16 scale and a zero point for
// 32. BF16 for kBF16.
WeightFormat FormatOf(ExpertDtype dtype);

// Sets the formats in memory of the routed experts' matrices; nothing else is ever quantised. Unimplemented, naming the
// tensor, when its rows do not fill whole bytes.
absl::Status SetExpertDtype(ExpertDtype dtype, TensorPlan& plan);

}  // namespace tokenferry

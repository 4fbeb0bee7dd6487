// The root-mean-square norm without a weight.
#pragma once

#include "core/device/device.h"
#include "core/formats/tensor.h"

namespace tokenferry {

// x[t, :] *= 1 / sqrt(mean(x^2) + eps). The sum of squares follows core/kernels/matmul.h's lane order. CPUs only.
struct UnitNormArgs {
  MatrixView<float> x;
  float eps = 1e-6f;
};
void UnitNorm(Stream& stream, const UnitNormArgs& args);

}  // namespace tokenferry

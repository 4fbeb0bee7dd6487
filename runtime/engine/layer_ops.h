// Operations of a layer on this rank's own rows, called with the views that weights have. Internal to the engine.
#pragma once

#include "core/formats/tensor.h"
#include "core/kernels/gather_rows.h"
#include "core/kernels/matmul.h"
#include "runtime/model/weights.h"
#include "runtime/ops/norm_ops.h"

namespace tokenferry {

// y [x.rows, w.rows] contiguous = x times w transposed, or added to it.
inline void Project(Stream& stream, ConstFloatMatrix x, const WeightView& w, float* y, Compute compute,
                    Accumulate accumulate = Accumulate::kNo) {
  MatMul(stream, {.x = x.data,
                  .x_dtype = x.dtype,
                  .x_stride = x.stride,
                  .num_rows = x.rows,
                  .w = w,
                  .y = y,
                  .y_stride = w.rows,
                  .compute = compute,
                  .accumulate = accumulate});
}

// x as products read it: on tensor cores `rounded`, made once for all of them; elsewhere that is null, and they read x.
inline ConstFloatMatrix InputsOf(MatrixView<const float> x, MatrixView<BF16> rounded) {
  return rounded.data == nullptr ? ConstFloatMatrix(x) : ConstFloatMatrix(rounded);
}

// The same, of x that nobody has rounded yet.
inline ConstFloatMatrix AsInputs(Stream& stream, MatrixView<const float> x, MatrixView<BF16> to) {
  if (to.data != nullptr) {
    stream.Launch(kGatherRows, {.src = x, .num_rows = x.rows, .out = to.data, .dtype = DType::kBF16});
  }
  return InputsOf(x, to);
}

// InputsOf what comes of it.
inline ConstFloatMatrix Norm(Stream& stream, MatrixView<const float> x, const WeightView& weight, MatrixView<float> out,
                             float eps, MatrixView<BF16> rounded = {}) {
  RmsNorm(stream, {x, weight.data, weight.dtype(), eps, out, rounded});
  return InputsOf(out, rounded);
}

// A norm of hidden states: one with a bias is a layer norm (NormKind).
struct HiddenNorm {
  Role weight, bias;
};
inline constexpr HiddenNorm kInputNorm{Role::kInputNorm, Role::kInputNormBias},
    kPostNorm{Role::kPostNorm, Role::kPostNormBias}, kFinalNorm{Role::kFinalNorm, Role::kFinalNormBias};

inline ConstFloatMatrix Norm(Stream& stream, MatrixView<const float> x, const RoleViews& weights,
                             const HiddenNorm& norm, MatrixView<float> out, float eps, MatrixView<BF16> rounded = {}) {
  const WeightView& weight = weights[norm.weight];
  const float* bias = weights.vector(norm.bias);
  if (bias == nullptr) return Norm(stream, x, weight, out, eps, rounded);
  LayerNorm(stream, {x, weight.data, weight.dtype(), bias, eps, out, rounded});
  return InputsOf(out, rounded);
}

}  // namespace tokenferry

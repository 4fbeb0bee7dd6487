// Small operations on rows of f32, element by element: nothing is summed, so all versions give the same bits.
#pragma once

#include "core/device/device.h"
#include "core/formats/tensor.h"

namespace tokenferry {

// x[t, i] += bias[i].
struct AddBiasArgs {
  MatrixView<float> x;
  const float* bias = nullptr;  // [cols]
};
void AddBias(Stream& stream, const AddBiasArgs& args);

// x limited to [-limit, limit]; a NaN stays.
struct ClampArgs {
  MatrixView<float> x;
  float limit = 0;
};
void Clamp(Stream& stream, const ClampArgs& args);

// x[t, :] *= sigmoid(logit[t]) = 1 / (1 + exp(-logit)), with core/kernels/exp.h.
struct GateRowsArgs {
  MatrixView<float> x;
  const float* logits = nullptr;  // [rows]
};
void GateRows(Stream& stream, const GateRowsArgs& args);

}  // namespace tokenferry

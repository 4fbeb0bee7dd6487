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

// x[t, i] *= sigmoid(gate[t, i]), as GateRows.
struct GateArgs {
  MatrixView<float> x;
  MatrixView<const float> gate;
};
void Gate(Stream& stream, const GateArgs& args);

// x *= factor.
struct ScaleArgs {
  MatrixView<float> x;
  float factor = 1;
};
void Scale(Stream& stream, const ScaleArgs& args);

// out[t, :] = x[t, :] * weight[t].
struct ScaleRowsArgs {
  MatrixView<const float> x;
  MatrixView<const float> weight;  // [rows, 1]
  MatrixView<float> out;
};
void ScaleRows(Stream& stream, const ScaleRowsArgs& args);

}  // namespace tokenferry

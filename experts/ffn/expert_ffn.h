// The grouped feed-forward network of a rank's experts: y = down(activation(gate(x), up(x))) for every selection, or
// y = down(relu(gate(x))) where the activation has no up.
#pragma once

#include "core/device/device.h"
#include "core/formats/tensor.h"
#include "core/formats/weight_format.h"
#include "core/moe/gated_activation.h"
#include "core/moe/moe_types.h"

namespace tokenferry {

// The three matrices of one expert, as the checkpoint stores them. gate, up [I, H]; down [H, I].
struct ExpertWeights {
  WeightView gate, up, down;
};

struct ExpertFfnArgs {
  ExpertRows rows;  // selections grouped by local slot
  int64_t num_slots = 0;
  int64_t intermediate = 0;    // I
  WeightArray gate, up, down;  // [num_slots], by slot; up is not looked at where the activation has none
  // Vectors as matrices of one row, F32, by slot; views null: there are none. Added to what the matrix makes.
  WeightArray gate_bias = {}, up_bias = {}, down_bias = {};
  GatedActivation activation = {};
  float* scratch = nullptr;  // [max_selections, 2 * I]; of which GatedMatMul needs a quarter, for bf16
  FloatMatrix out;           // [max_selections, H], in the order of `rows`; kBF16: rounded once, with a down bias twice
  Compute compute = Compute::kF32;
};

// Rows' results do not depend on each other. Launches several operations.
void ExpertFfn(Stream& stream, const ExpertFfnArgs& args);

// out = silu(gate) * up elementwise, [rows, cols], f32: silu(z) = z / (1 + exp(-z)). Bit-identical on all instruction
// sets (own exp). gate, up and out may be the same memory. live_rows (core/kernels/live_rows.h): rows of out from there
// on stay as they are.
struct SiluMulArgs {
  MatrixView<const float> gate, up;
  MatrixView<float> out;
  const int64_t* live_rows = nullptr;
};
void SiluMul(Stream& stream, const SiluMulArgs& args);

// GatedActivation::Kind::kClampedSwiglu, otherwise as SiluMul.
struct ClampedSwigluArgs {
  MatrixView<const float> gate, up;
  MatrixView<float> out;
  float limit = 0, alpha = 0;
  const int64_t* live_rows = nullptr;
};
void ClampedSwiglu(Stream& stream, const ClampedSwigluArgs& args);

// x = max(x, 0) in place; a NaN stays. live_rows as SiluMul's.
struct ReluArgs {
  MatrixView<float> x;
  const int64_t* live_rows = nullptr;
};
void Relu(Stream& stream, const ReluArgs& args);

// Rows [slot_offsets[s], slot_offsets[s + 1]) of x += bias.views[s]. x is f32, or bf16: widened, and rounded once more.
struct AddSlotBiasArgs {
  FloatMatrix x;
  const int64_t* slot_offsets = nullptr;  // [num_slots + 1], device memory
  int64_t num_slots = 0;
  WeightArray bias;  // [1, x.cols] F32 each
};
void AddSlotBias(Stream& stream, const AddSlotBiasArgs& args);

}  // namespace tokenferry

// The grouped SwiGLU feed-forward network of a rank's experts: y = down(silu(gate(x)) * up(x)) for every selection.
#pragma once

#include "core/device/device.h"
#include "core/formats/tensor.h"
#include "core/formats/weight_format.h"
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
  WeightArray gate, up, down;  // [num_slots], by slot
  float* scratch = nullptr;    // [max_selections, 2 * I]
  FloatMatrix out;             // [max_selections, H], in the order of `rows`; kBF16: each output rounded once
  Compute compute = Compute::kF32;
};

// Rows' results do not depend on each other. Launches several operations.
void ExpertFfn(Stream& stream, const ExpertFfnArgs& args);

// out = silu(gate) * up elementwise, [rows, cols], f32: silu(z) = z / (1 + exp(-z)). Bit-identical on all instruction
// sets (own exp). gate, up and out may be the same memory.
struct SiluMulArgs {
  MatrixView<const float> gate, up;
  MatrixView<float> out;
};
void SiluMul(Stream& stream, const SiluMulArgs& args);

}  // namespace tokenferry

#include "experts/ffn/expert_ffn.h"

#include "core/check.h"
#include "core/kernels/matmul.h"

namespace tokenferry {

void ExpertFfn(Stream& stream, const ExpertFfnArgs& args) {
  if (args.rows.max_selections == 0) return;
  TF_CHECK_GT(args.num_slots, 0);
  const int64_t intermediate = args.intermediate, scratch_stride = 2 * intermediate;
  float *const gate_half = args.scratch, *const up_half = args.scratch + intermediate;
  GroupedMatMulArgs up;
  up.x = args.rows.rows;
  up.x_dtype = args.rows.dtype;
  up.x_stride = args.rows.row_stride;
  up.row_idx = args.rows.row_idx;
  up.offsets = args.rows.slot_offsets;
  up.num_groups = args.num_slots;
  up.max_rows = args.rows.max_selections;
  up.expected_rows = args.rows.expected_selections;
  up.weights = args.up;
  up.y = up_half;
  up.y_stride = scratch_stride;
  up.compute = args.compute;
  GroupedMatMulArgs gate = up;
  gate.weights = args.gate;
  gate.y = gate_half;
  GroupedMatMul(stream, gate);
  if (args.activation.has_up()) GroupedMatMul(stream, up);
  const auto add_bias = [&](FloatMatrix x, const WeightArray& bias) {
    if (bias.views != nullptr) AddSlotBias(stream, {x, args.rows.slot_offsets, args.num_slots, bias});
  };

  // The activation overwrites the gate's half. Behind the last selection nothing has been computed.
  const int64_t* const live_rows = args.rows.slot_offsets + args.num_slots;
  const MatrixView<float> gate_rows = {gate_half, args.rows.max_selections, intermediate, scratch_stride};
  const MatrixView<float> up_rows = {up_half, args.rows.max_selections, intermediate, scratch_stride};
  add_bias(gate_rows, args.gate_bias);
  if (args.activation.has_up()) add_bias(up_rows, args.up_bias);
  switch (args.activation.kind) {
    case GatedActivation::Kind::kSilu:
      SiluMul(stream, {.gate = gate_rows, .up = up_rows, .out = gate_rows, .live_rows = live_rows});
      break;
    case GatedActivation::Kind::kRelu:
      Relu(stream, {gate_rows, live_rows});
      break;
    case GatedActivation::Kind::kClampedSwiglu:
      ClampedSwiglu(stream, {gate_rows, up_rows, gate_rows, args.activation.limit, args.activation.alpha, live_rows});
      break;
  }

  GroupedMatMulArgs down = up;
  down.x = gate_half;
  down.x_dtype = DType::kF32;
  down.x_stride = scratch_stride;
  down.row_idx = nullptr;
  down.weights = args.down;
  down.y = args.out.data;
  down.y_dtype = args.out.dtype;
  down.y_stride = args.out.stride;
  GroupedMatMul(stream, down);
  add_bias(args.out, args.down_bias);
}

}  // namespace tokenferry

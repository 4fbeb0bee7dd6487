#include "experts/ffn/expert_ffn.h"

#include "core/check.h"
#include "core/kernels/gated_matmul.h"
#include "core/kernels/gather_rows.h"
#include "core/kernels/matmul.h"

namespace tokenferry {
namespace {

void AddBias(Stream& stream, const ExpertFfnArgs& args, FloatMatrix x, const WeightArray& bias) {
  if (bias.views != nullptr) AddSlotBias(stream, {x, args.rows.slot_offsets, args.num_slots, bias});
}

// Of the selections' rows; weights and y are missing.
GroupedMatMulArgs ProductOfRows(const ExpertFfnArgs& args) {
  GroupedMatMulArgs product;
  product.x = args.rows.rows;
  product.x_dtype = args.rows.dtype;
  product.x_stride = args.rows.row_stride;
  product.row_idx = args.rows.row_idx;
  product.offsets = args.rows.slot_offsets;
  product.num_groups = args.num_slots;
  product.max_rows = args.rows.max_selections;
  product.expected_rows = args.rows.expected_selections;
  product.compute = args.compute;
  return product;
}

// What the product down is given. The activation overwrites the gate.
ConstFloatMatrix Activate(Stream& stream, const ExpertFfnArgs& args) {
  const int64_t num_rows = args.rows.max_selections, stride = args.intermediate;
  const auto gate = MakeMatrix<float>(args.scratch, num_rows, stride);
  const auto up = MakeMatrix<float>(args.scratch + num_rows * stride, num_rows, stride);
  GroupedMatMulArgs product = ProductOfRows(args);
  product.weights = args.gate;
  product.y = gate.data;
  product.y_stride = stride;
  GroupedMatMul(stream, product);
  AddBias(stream, args, gate, args.gate_bias);
  if (args.activation.has_up()) {
    product.weights = args.up;
    product.y = up.data;
    GroupedMatMul(stream, product);
    AddBias(stream, args, up, args.up_bias);
  }
  // Behind the last selection nothing has been computed.
  const int64_t* const live_rows = args.rows.slot_offsets + args.num_slots;
  switch (args.activation.kind) {
    case GatedActivation::Kind::kSilu:
      SiluMul(stream, {.gate = gate, .up = up, .out = gate, .live_rows = live_rows});
      break;
    case GatedActivation::Kind::kRelu:
      Relu(stream, {gate, live_rows});
      break;
    case GatedActivation::Kind::kClampedSwiglu:
      ClampedSwiglu(stream, {gate, up, gate, args.activation.limit, args.activation.alpha, live_rows});
      break;
  }
  if (!RunsOnTensorCores(stream, args.compute)) return gate;
  const auto rounded = MakeMatrix<BF16>(up.data, num_rows, stride);  // nobody reads up any more
  stream.Launch(kGatherRows, {gate, nullptr, num_rows, rounded.data, DType::kBF16, live_rows});
  return rounded;
}

bool TakesOneKernel(Stream& stream, const ExpertFfnArgs& args) {
  return RunsOnTensorCores(stream, args.compute) && args.activation.kind == GatedActivation::Kind::kSilu &&
         args.gate_bias.views == nullptr && args.up_bias.views == nullptr;
}

// The same in one kernel, rounded as down would round it.
ConstFloatMatrix ActivateInOneKernel(Stream& stream, const ExpertFfnArgs& args) {
  const ExpertRows& rows = args.rows;
  const auto y = MakeMatrix<BF16>(args.scratch, rows.max_selections, args.intermediate);
  GatedMatMul(stream, {.x = rows.rows,
                       .x_dtype = rows.dtype,
                       .x_stride = rows.row_stride,
                       .row_idx = rows.row_idx,
                       .offsets = rows.slot_offsets,
                       .num_groups = args.num_slots,
                       .max_rows = rows.max_selections,
                       .expected_rows = rows.expected_selections,
                       .gate = args.gate,
                       .up = args.up,
                       .y = y});
  return y;
}

}  // namespace

void ExpertFfn(Stream& stream, const ExpertFfnArgs& args) {
  if (args.rows.max_selections == 0) return;
  TF_CHECK_GT(args.num_slots, 0);
  const ConstFloatMatrix activated =
      TakesOneKernel(stream, args) ? ActivateInOneKernel(stream, args) : Activate(stream, args);
  GroupedMatMulArgs down = ProductOfRows(args);
  down.x = activated.data;
  down.x_dtype = activated.dtype;
  down.x_stride = activated.stride;
  down.row_idx = nullptr;
  down.weights = args.down;
  down.y = args.out.data;
  down.y_dtype = args.out.dtype;
  down.y_stride = args.out.stride;
  GroupedMatMul(stream, down);
  AddBias(stream, args, args.out, args.down_bias);
}

}  // namespace tokenferry

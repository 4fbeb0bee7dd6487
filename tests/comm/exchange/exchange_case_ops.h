// Operations of the exchange's tests: experts whose outputs tell everything apart, and a producer of rows.
#pragma once

#include "core/device/device.h"
#include "core/formats/tensor.h"
#include "core/moe/moe_types.h"

namespace tokenferry {

// The "expert": element h of expert e's output depends on a row's neighbour, the position and the expert. x = row[h],
// next = row[(h + 1) % hidden].
TF_HOST_DEVICE inline float ExpertOutput(int expert, float x, float next) {
  return x * (1.0f + 0.37f * static_cast<float>(expert)) - 0.11f * next;
}

struct TestExpertsArgs {
  ExpertRows rows;
  const int32_t* slot_expert;  // [num_slots]
  int64_t num_slots;
  FloatMatrix out;  // [rows.max_selections, H]
};
extern const Op<TestExpertsArgs> kTestExperts;

// Rows of f32 as their type in `to`.
struct WriteHomeArgs {
  MatrixView<const float> from;
  FloatMatrix to;
};
extern const Op<WriteHomeArgs> kWriteHome;

}  // namespace tokenferry

// Overflow policies: what happens to selections beyond an expert's capacity.
#pragma once

#include <cstdint>

#include "core/device/device.h"
#include "core/moe_types.h"

namespace tokenferry {

enum class Overflow : uint8_t {
  kDropless,  // exact: nothing is ever dropped
  kCapacity,  // an expert takes at most ceil(factor * top_k * T / num_experts) selections; the others are dropped
};

// ceil(factor * top_k * num_tokens / num_experts), in double; T counts the tokens of all ranks in this step.
int64_t ExpertCapacity(double factor, int top_k, int64_t num_tokens, int num_experts);

// counts[e] = selections of expert e. [E] int32, overwritten.
struct CountSelectionsArgs {
  MatrixView<const int32_t> expert_idx;  // [T, K]
  int32_t num_experts = 0;
  int32_t* counts = nullptr;
};
void CountSelections(Stream& stream, const CountSelectionsArgs& args);

// Drops by position: an expert keeps its first `capacity` selections in (rank, token) order; `taken_before[e]` counts
// the selections of lower ranks. A dropped selection becomes expert -1 with weight 0; the token's other weights stay
// (Switch, Megatron). dropped[e] and lost_weight[e] are added to.
struct ApplyCapacityArgs {
  Routing routing;  // changed in place
  int32_t num_experts = 0;
  int64_t capacity = 0;
  const int32_t* taken_before = nullptr;  // [E]
  int64_t* dropped = nullptr;             // [E]
  double* lost_weight = nullptr;          // [E]
};
void ApplyCapacity(Stream& stream, const ApplyCapacityArgs& args);

}  // namespace tokenferry

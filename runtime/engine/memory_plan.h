// What a rank will hold, from a model's plan alone: known before a weight is read.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "core/moe/placement.h"
#include "runtime/engine/engine.h"
#include "runtime/model/tensor_plan.h"

namespace tokenferry {

// Bytes of device memory of one rank.
struct RankMemory {
  int64_t weights = 0;      // routed experts of this rank, and all the rest
  int64_t experts = 0;      // the routed experts of them
  int64_t cache = 0;        // KV cache, and states of sequences
  int64_t activations = 0;  // of a step
  int64_t logits = 0;       // of as many rows as are computed at a time
  // An expert as it is stored, while it is converted; gone before there is a cache. On GPUs 0: that is the host's.
  int64_t conversion = 0;

  // No rank gets along with less. The exchange's buffers, which depend on where tokens go, come on top of it.
  int64_t total() const { return weights + std::max(cache + activations + logits, conversion); }
};

// [R], by rank, of ranks that compute on such devices. `placement` is for plan.model.moe.num_experts experts.
std::vector<RankMemory> PlanMemory(const TensorPlan& plan, const Placement& placement, const EngineOptions& options,
                                   DeviceKind device);

}  // namespace tokenferry

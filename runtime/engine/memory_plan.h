// What a rank will hold, from a model's plan alone: known before a weight is read.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "comm/transport/topology.h"
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
  int64_t exchange = 0;     // buffers of exchanges that are made at the start
  // What buffers of exchanges can grow by, where the router sends most tokens to one rank.
  int64_t exchange_growth = 0;
  // An expert as it is stored, while it is converted; gone before there is a cache. On GPUs 0: that is the host's.
  int64_t conversion = 0;

  // No rank gets along with less. What depends on where tokens go, `exchange_growth`, comes on top of it.
  int64_t total() const { return weights + std::max(cache + activations + logits + exchange, conversion); }
  RankMemory& operator+=(const RankMemory& other);
};

// The parts that a rank has at the same time, as reports name them in text and in JSON.
struct MemoryPart {
  const char *name, *key;
  int64_t RankMemory::*bytes;
};
inline constexpr MemoryPart kMemoryParts[] = {{"weights", "bytes", &RankMemory::weights},
                                              {"cache", "cache_bytes", &RankMemory::cache},
                                              {"activations", "activation_bytes", &RankMemory::activations},
                                              {"logits", "logit_bytes", &RankMemory::logits},
                                              {"exchanges", "exchange_bytes", &RankMemory::exchange}};

// [R], by rank, of ranks on such hosts that compute on such devices. `placement` is for plan.model.moe.num_experts
// experts.
std::vector<RankMemory> PlanMemory(const TensorPlan& plan, const Placement& placement, const EngineOptions& options,
                                   const Topology& topology, DeviceKind device);

}  // namespace tokenferry

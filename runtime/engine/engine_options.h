// What an engine is asked for. Plain values that nest as the parts do, engine, MoE layer, exchange: each part hands the
// next one its own, and a flag writes where the part looks that has a use for it.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>

#include "comm/exchange/path/options.h"
#include "comm/wait/call_site.h"
#include "core/formats/dtype.h"
#include "experts/overflow/overflow.h"

namespace tokenferry {

struct ExchangePlan;

// What a rank computes while rows travel; the bits are the same.
enum class Overlap : uint8_t {
  kOff,
  kShared,    // the shared expert
  kTwoBatch,  // the shared expert, and the other half of the step's tokens: attention and experts of one half while the
              // rows of the other travel
};

// Sees this rank's plan of every exchange that the host has made, before it is executed; null: nobody looks.
using PlanObserver = std::function<void(const CallSite&, const ExchangePlan&)>;

struct MoeOptions {
  // How rows travel: path, reduction, output_dtype, on_choice, max_peer_bytes. Sizes and the dtypes of rows follow from
  // the model, `dispatch_dtype` and the precision: whoever makes the exchange sets them, whatever they are here.
  ExchangeOptions exchange;
  std::optional<DType> dispatch_dtype;  // ExchangeOptions::wire_dtype; none: what Compute rounds rows to anyway
  OverflowPolicy overflow;
  // Most bytes of the exchange's buffers on a rank, all micro-batches together; a layer's tokens then pass in as many
  // rounds as it takes. 0: no bound.
  int64_t exchange_budget = 0;
  PlanObserver on_plan;  // on all ranks or on none, since it decides which path kAuto means on GPUs
};

struct EngineOptions {
  Compute compute = Compute::kBF16;
  Overlap overlap = Overlap::kOff;
  MoeOptions moe;
  int64_t prefill_chunk = 512;  // most prompt tokens per rank and step
  int64_t max_sequences_per_rank = 32;
  int64_t cache_tokens_per_rank = 4096;
  int64_t encoder_tokens_per_rank = 0;  // of a model with an encoder: most tokens of its inputs per rank and step

  // Of a rank in a step: what activations and buffers are made for.
  int64_t max_tokens() const { return encoder_tokens_per_rank + prefill_chunk + max_sequences_per_rank; }
};

}  // namespace tokenferry

// A model, opened and running on all ranks: what generate, eval and bench engine share. Every function is collective
// and returns the same status on every rank.
#pragma once

#include <functional>
#include <memory>
#include <optional>

#include "launch/ranks/bootstrap.h"
#include "runtime/checkpoint/checkpoint.h"
#include "runtime/engine/engine.h"
#include "runtime/model/generation_config.h"
#include "runtime/model/tensor_plan.h"
#include "runtime/model/weights.h"
#include "runtime/text/encode_prompt.h"
#include "runtime/text/tokenizer.h"

namespace tokenferry {

enum class TokenizerUse : uint8_t { kNone, kNeeded };
// kIfThere: a folder with config.json alone will do; tensors have the types that it implies.
enum class WeightsUse : uint8_t { kNeeded, kIfThere };

// Read and validated from headers; no weight has been read.
struct ModelFiles {
  ModelSpec model;
  absl::StatusOr<GenerationConfig> generation;  // an error is one for those who generate; others do not need it
  std::unique_ptr<Checkpoint> checkpoint;       // null: there is none (kIfThere)
  CheckedPlan plan;
  Placement placement;
  std::optional<Tokenizer> tokenizer;  // kNeeded
};

absl::StatusOr<std::unique_ptr<ModelFiles>> OpenModel(RankContext& context, TokenizerUse tokenizer,
                                                      WeightsUse weights = WeightsUse::kNeeded);

struct ModelSession {
  std::unique_ptr<ModelFiles> files;
  ModelWeights weights;
  double load_seconds = 0;
  int64_t resident_before_load = 0;  // of the process, bytes
  std::unique_ptr<Engine> engine;
};

// Reads this rank's weights, showing progress, and makes an engine in which all of rank 0's `requests` fit (the other
// ranks' are ignored): sequences are spread evenly, and --prefill-chunk and --kv-cache-tokens win where they are given.
// InvalidArgument when a request does not fit into the cache that --kv-cache-tokens asks for, before a weight is read.
// ResourceExhausted, before anything is read, when a host has not enough memory for its ranks
// (launch/session/memory_check.h).
absl::StatusOr<std::unique_ptr<ModelSession>> StartSession(RankContext& context, std::unique_ptr<ModelFiles> files,
                                                           absl::Span<const Request> requests);

// The same for requests that are still to come: room for `max_sequences_per_rank` of them at a time, and a cache of
// --kv-cache-tokens, or of kServingCacheTokens and the longest sequence where it is not given. `on_progress` is told of
// the loading of this rank's weights, bytes done and bytes in all; that all are there once more when every rank has its
// own, and when the engine is made: who waits hears of each part of the work when it is done.
struct ServingSize {
  int64_t max_sequences_per_rank = 32;
  int64_t max_sequence_tokens = 0;  // of prompt and output together; 0: the model's context
};
inline constexpr int64_t kServingCacheTokens = 16384;
// The engine that it makes.
EngineOptions ServingEngine(const SharedFlags& flags, const ModelSpec& model, const ServingSize& size);
absl::StatusOr<std::unique_ptr<ModelSession>> StartServingSession(
    RankContext& context, std::unique_ptr<ModelFiles> files, const ServingSize& size,
    const std::function<void(int64_t done, int64_t total)>& on_progress);

// InvalidArgument naming the request when it does not fit into the model's context.
absl::Status CheckContext(absl::string_view what, int64_t prompt_tokens, int64_t new_tokens, const ModelSpec& model);

}  // namespace tokenferry

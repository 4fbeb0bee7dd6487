// What is asked of the engine, and what comes back, step by step.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/status.h"
#include "runtime/engine/sampling_params.h"
#include "runtime/engine/step_plan.h"

namespace tokenferry {

enum class RequestKind : uint8_t { kGenerate, kScore, kLogits };

struct Request {
  // At least one token. A model with an encoder reads it with that, whole in one step.
  std::vector<int32_t> prompt;
  RequestKind kind = RequestKind::kGenerate;
  int64_t max_new_tokens = 0;  // kGenerate: at least 1
  SamplingParams sampling;
  // kGenerate: the beginning of the output, when the sequence has run before and its state is gone; part of
  // max_new_tokens and not reported again. The tokens after it are those that would have followed then.
  std::vector<int32_t> output;
  // What the cache holds of a prompt is used only by requests with the same scope.
  std::string cache_scope;
  Wanted prompt_scores = Wanted::kNo;  // kGenerate: natural-log probabilities of the prompt's tokens too, as kScore
  Wanted routing = Wanted::kNo;        // kGenerate: the experts of the step that samples each token
  Wanted trace = Wanted::kNo;          // kLogits: hidden states and router logits of the prompt's tokens too
  // Of a model with an encoder: what its decoder begins with, and what is scored; empty: decoder_start_token_id.
  std::vector<int32_t> decoder_input;
};

enum class SequenceEnd : uint8_t {
  kNotYet,
  kStopToken,  // the token is one of SamplingParams::stop_token_ids
  kLength,     // max_new_tokens reached, or the last chunk scored
  kError,
};

// What a step brought for one sequence.
struct SequenceUpdate {
  int32_t seq = 0;
  Stack stack = Stack::kDecoder;  // kEncoder: `result` is of the whole prompt, as an encoder reads it
  bool has_token = false;         // kGenerate: a new token
  SampledToken token;
  int64_t num_cached_tokens = 0;  // with a sequence's first token: how many of its prompt's came from the cache
  int64_t position = 0;           // of the first token whose scores, logits and routing are in `result`
  EntryResult result;             // what was asked for; with a new token, routing is of the token before it
  SequenceEnd end = SequenceEnd::kNotYet;
  absl::Status error;  // kError: of this sequence alone; the others go on

  bool finished() const { return end != SequenceEnd::kNotYet; }
};

}  // namespace tokenferry

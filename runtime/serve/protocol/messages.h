// What the front (HTTP, texts) and rank 0 (tokens, steps) say to each other over one stream socket. Both ends are the
// same program on the same host; runtime/serve/protocol/codec.h has the bytes.
//
//   front                                     rank 0
//     Hello                            ->       refuses another version
//                                      <-     Hello
//                                      <-     LoadingProgress ..      while weights are read
//                                      <-     Ready                from here on requests are taken
//     AddRequest, CancelRequest ..     ->
//                                      <-     TokenBatch, PromptScores, RequestFailed ..
//                                      <-     Heartbeat            at least once a second: every rank has answered
//                                      <-     JobStats          at most once a second
//                                      <-     Drain                no new requests; Goodbye when the last one has ended
//     Goodbye                          <->    the reason, before either end closes the socket
//
// Every request is answered to its end exactly once: by a TokenUpdate or PromptScores whose `end` is not kNone, by
// RequestFailed, or, for all that are left, by Goodbye or the end of the stream. After CancelRequest nothing more has
// to come for it, and what does is ignored. A request's id is not used again.
#pragma once

#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include "runtime/engine/sampler.h"

namespace tokenferry {

inline constexpr uint32_t kProtocolVersion = 3;

// First in each direction.
struct Hello {
  uint32_t version = kProtocolVersion;
};

struct LoadingProgress {
  int64_t bytes_done = 0;  // of rank 0's weights
  int64_t bytes_total = 0;
  double seconds_left = 0;  // as estimated
};

// What runs. The front reads the model's config and tokenizer itself.
struct Ready {
  std::vector<std::string> host_per_rank;  // [R]
  std::string setup;                       // one line: ranks, instruction set, device
  int64_t max_sequences_per_rank = 0;
};

enum class WantPromptScores : uint8_t { kNo, kYes };
enum class WantRouting : uint8_t { kNo, kYes };

struct AddRequest {
  uint64_t id = 0;
  std::vector<int32_t> prompt;  // at least one token, each below the vocabulary's size
  // What other ranks, which have ended, had generated: part of max_new_tokens, not reported again, and the tokens after
  // it are those that would have followed there.
  std::vector<int32_t> output;
  int64_t max_new_tokens = 0;  // 0: only the prompt's scores are wanted
  SamplingParams sampling;     // valid (Validate)
  WantPromptScores prompt_scores = WantPromptScores::kNo;
  WantRouting routing = WantRouting::kNo;  // the experts of every generated token
  std::string cache_scope;                 // cached prefixes are shared only between requests whose scopes are equal
};

struct CancelRequest {
  uint64_t id = 0;
};

struct Drain {};

struct ReportedToken {
  int32_t token = -1;
  float logprob = 0;  // natural log of its softmax probability over the raw logits
};

enum class OutputEnd : uint8_t { kNone, kStop, kLength };

// One generated token.
struct TokenUpdate {
  uint64_t id = 0;
  ReportedToken sampled;
  std::vector<ReportedToken> top;   // likeliest first, as many as were asked for
  std::vector<int32_t> expert_idx;  // kYes: [MoE layers, top_k] of the step that sampled it; else empty
  int64_t num_cached_tokens = 0;    // of the prompt, found in the prefix cache; with the first token
  OutputEnd end = OutputEnd::kNone;
};

// All tokens of one step, so that a step is one write.
struct TokenBatch {
  std::vector<TokenUpdate> updates;
};

// Of a piece of a prompt, in order from position 0.
struct PromptScores {
  uint64_t id = 0;
  std::vector<float> logprobs;                  // of the prompt's next tokens; the first token of a prompt has none
  std::vector<std::vector<ReportedToken>> top;  // by token, as TokenUpdate::top; empty when none were asked for
  OutputEnd end = OutputEnd::kNone;             // kLength with the last piece of a request that generates nothing
};

enum class FailureKind : uint8_t {
  kInvalid,     // the request can never be served: too long for a rank's cache, a token beyond the vocabulary
  kOverloaded,  // not now
  kInternal,    // this sequence's logits were NaN, for instance; others go on
};

struct RequestFailed {
  uint64_t id = 0;
  FailureKind kind = FailureKind::kInternal;
  std::string message;  // one line, for the client
};

// Every rank has taken part in a step since the last one.
struct Heartbeat {
  int64_t num_steps = 0;  // since the start
};

// Counters are since the start of the ranks. R ranks, L MoE layers, E experts of a layer.
struct JobStats {
  int64_t num_steps = 0;
  int64_t prefill_tokens = 0, decode_tokens = 0;
  int64_t num_running = 0, num_waiting = 0;                // sequences, now
  int64_t cache_blocks_total = 0, cache_blocks_used = 0;   // of all ranks, now
  int64_t prefix_query_tokens = 0, prefix_hit_tokens = 0;  // of prompts
  int64_t num_preemptions = 0, num_replays = 0;
  double step_seconds = 0;                 // sum over steps
  std::vector<double> exchange_seconds;    // [R]
  std::vector<double> wait_seconds;        // [R, R]: who waited, for whom
  std::vector<int64_t> bytes_sent;         // [R, 3]: to itself, within its host, to other hosts
  std::vector<int64_t> expert_rows;        // [L, E] selections computed
  std::vector<int64_t> rank_rows;          // [L, R] selections computed
  std::vector<int64_t> dropped, rerouted;  // [L] selections
};

struct Goodbye {
  std::string reason;  // one line
};

using Message = std::variant<Hello, LoadingProgress, Ready, AddRequest, CancelRequest, Drain, TokenBatch, PromptScores,
                             RequestFailed, Heartbeat, JobStats, Goodbye>;

}  // namespace tokenferry

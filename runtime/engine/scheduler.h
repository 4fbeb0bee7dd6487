// Rank 0's view of the requests: which sequence lives on which rank, and what the next step does. Host logic only; no
// transport, no device. Continuous batching: requests may be added at any time between steps.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <vector>

#include "runtime/engine/block_pool.h"
#include "runtime/engine/step_plan.h"

namespace tokenferry {

struct SchedulerOptions {
  int num_ranks = 1;
  int64_t prefill_chunk = 512;           // most prompt tokens per rank and step, at least 1
  int64_t max_sequences_per_rank = 32;   // running at once
  int64_t cache_tokens_per_rank = 4096;  // whole cache blocks are counted
  int64_t vocab_size = int64_t{1} << 31;
};

enum class RequestKind : uint8_t { kGenerate, kScore, kLogits };

struct Request {
  std::vector<int32_t> prompt;  // at least one token
  RequestKind kind = RequestKind::kGenerate;
  int64_t max_new_tokens = 0;  // kGenerate: at least 1
  SamplingParams sampling;
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
  bool has_token = false;  // kGenerate: a new token
  SampledToken token;
  int64_t position = 0;  // kScore, kLogits: of the first row of `result`
  EntryResult result;    // kScore, kLogits
  SequenceEnd end = SequenceEnd::kNotYet;
  absl::Status error;  // kError: of this sequence alone; the others go on

  bool finished() const { return end != SequenceEnd::kNotYet; }
};

class Scheduler {
 public:
  explicit Scheduler(const SchedulerOptions& options);

  // The sequence's number. InvalidArgument for an empty prompt, a token that the model does not have, and what Validate
  // refuses; ResourceExhausted, with the numbers, when the request could never fit into a rank's cache.
  absl::StatusOr<int32_t> Add(Request request);

  // The next step: admits waiting requests in order of arrival onto the rank with the most free cache (ties to the
  // lower rank), one token for every decoding sequence, and prompt pieces up to prefill_chunk tokens per rank.
  StepPlan Next();

  // Takes the results of the plan that Next returned last.
  absl::StatusOr<std::vector<SequenceUpdate>> Accept(const std::vector<EntryResult>& results);

  // Ends a sequence early (stop string, cancelled). Its cache is released with the next plan.
  void Finish(int32_t seq);

  bool idle() const { return waiting_.empty() && running_.empty(); }
  RankId rank_of(int32_t seq) const;

 private:
  struct Sequence {
    Request request;
    RankId rank;
    std::vector<int32_t> blocks;  // of the rank's cache
    int64_t num_done = 0;         // tokens whose keys are in the cache
    int64_t num_generated = 0;
    int32_t last_token = 0;     // the last generated one; the sequence's rank keeps the others
    int64_t num_in_flight = 0;  // tokens of the current plan

    int64_t num_prompt_tokens() const { return static_cast<int64_t>(request.prompt.size()); }
  };
  struct RankLoad {
    BlockPool blocks;
    int64_t num_sequences = 0;
  };

  void Admit(StepPlan& plan);
  void AddEntry(StepPlan& plan, int32_t seq, Sequence& s, int64_t& prefill_left);
  void Release(int32_t seq);

  SchedulerOptions options_;
  std::vector<RankLoad> ranks_;
  std::deque<std::pair<int32_t, Request>> waiting_;
  std::map<int32_t, Sequence> running_;  // by number: order of arrival
  std::vector<int32_t> released_;
  StepPlan current_;
  int32_t next_seq_ = 0;
};

}  // namespace tokenferry

// Rank 0's view of the requests: which sequence lives on which rank, in which blocks of its cache, and what the next
// step does. Host logic only; no transport, no device. Continuous batching: requests may be added at any time between
// steps.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "runtime/engine/block_cache.h"
#include "runtime/engine/prefill_budget.h"
#include "runtime/engine/request.h"
#include "runtime/engine/step_plan.h"

namespace tokenferry {

enum class PrefixCache : uint8_t { kOff, kOn };

struct SchedulerOptions {
  int num_ranks = 1;
  int64_t prefill_chunk = 512;           // most prompt tokens per rank and step, at least 1
  int64_t max_sequences_per_rank = 32;   // running at once
  int64_t cache_tokens_per_rank = 4096;  // whole cache blocks are counted
  int64_t vocab_size = int64_t{1} << 31;
  absl::Duration step_target = absl::InfiniteDuration();  // PrefillBudget
  PrefixCache prefix_cache = PrefixCache::kOn;
  RopeConfig rope;  // of the model
  // Whether layers of the model keep a state of each sequence. It follows from all its tokens, and what another
  // sequence has left are keys alone: so none starts from another's blocks, whatever prefix_cache says.
  bool has_states = false;
  // Of a model with an encoder: most tokens of encoders' inputs per rank and step, at least 1, and what a decoder
  // begins with. Keys follow from the encoder's input too, so that no sequence starts from another's blocks.
  int64_t encoder_tokens_per_rank = 0;
  int32_t decoder_start_token = -1;  // -1: there is no encoder

  bool has_encoder() const { return decoder_start_token >= 0; }
};

// Now, and since the scheduler's creation.
struct SchedulerStats {
  int64_t num_running = 0, num_waiting = 0;
  int64_t num_blocks = 0, num_held_blocks = 0;  // of all ranks
  int64_t prefix_query_tokens = 0, prefix_hit_tokens = 0;
  int64_t num_preemptions = 0;
  int64_t num_replays = 0;  // sequences that started with a part of their output
};

// Which tokens a sequence gets never depends on where and when it runs, whom it runs beside, or whether its beginning
// was cached: with `dropless` the rows of a step do not see each other, and a sequence that goes on after it was
// interrupted computes its tokens so far as a prompt (replay) and samples at the positions where it was. Under LongRoPE
// they do depend on how long the request may become, prompt and max_new_tokens together: that fixes the factors of the
// whole sequence before it starts, and sequences with other factors share no cache.
class Scheduler {
 public:
  explicit Scheduler(const SchedulerOptions& options);

  // The sequence's number. InvalidArgument for an empty prompt, a token that the model does not have, and what Validate
  // refuses; ResourceExhausted, with the numbers, when the request could never fit into a rank's cache, or its prompt
  // into a step of encoders.
  absl::StatusOr<int32_t> Add(Request request);

  // The next step: one token for every decoding sequence, and pieces of prompts up to the budget of each rank, shared
  // among those that wait for it. Blocks are given out as sequences grow; when a rank has none left, its youngest
  // sequence is preempted: it waits, and is replayed. The oldest one of a rank always advances. Then waiting requests
  // start, in order of arrival; nobody overtakes.
  StepPlan Next();

  // Takes the results of the plan that Next returned last.
  absl::StatusOr<std::vector<SequenceUpdate>> Accept(std::vector<EntryResult> results);

  // How long that step took; with SchedulerOptions::step_target the next chunks depend on it, but no result does.
  void Observe(absl::Duration took);

  // Ends a sequence early (stop string, cancelled). Its cache is released with the next plan.
  void Finish(int32_t seq);

  bool idle() const { return waiting_.empty() && running_.empty(); }
  SchedulerStats stats() const;

 private:
  struct Sequence {
    Request request;                      // its prompt and output are moved to `tokens`
    std::vector<int32_t> tokens;          // prompt and output so far; with an encoder, of the decoder
    std::vector<int32_t> encoder_tokens;  // its encoder's input
    int64_t num_prompt_tokens = 0;
    RopeFactors rope_factors = RopeFactors::kShort;
    std::string cache_scope;  // the request's, for its rope_factors
    RankId rank;
    std::vector<int32_t> blocks;    // of the rank's cache
    int32_t state = -1;             // of the rank's; -1: it waits
    int64_t num_filled_blocks = 0;  // of them, told to the BlockCache
    int64_t num_sent_blocks = 0;    // of them, known to the rank as they are
    int64_t num_done = 0;           // tokens whose keys are in the cache
    int64_t num_in_flight = 0;      // tokens of the current plan
    int64_t num_reported = 0;       // of the prompt: scores that the caller has
    int64_t num_cached = 0;         // of the prompt: tokens that the cache had when the sequence started first
    bool has_started = false;       // also before a preemption

    int64_t num_tokens() const { return static_cast<int64_t>(tokens.size()); }
    int64_t num_generated() const { return num_tokens() - num_prompt_tokens; }
    // What it will have and take at most.
    int64_t max_tokens() const { return num_prompt_tokens + request.max_new_tokens; }
    int64_t max_blocks() const;
    int64_t first_blocks() const;  // what it starts with
    bool is_encoding() const { return num_done == 0 && num_in_flight > 0 && !encoder_tokens.empty(); }
    bool decodes() const { return num_done == num_tokens() - 1 && num_generated() > 0; }
    bool scores_prompt() const {
      return request.kind != RequestKind::kGenerate || request.prompt_scores == Wanted::kYes;
    }
    // Whether all that is wanted of the prompt's tokens are their keys.
    bool may_skip_tokens() const { return !scores_prompt() && request.routing == Wanted::kNo; }
  };
  struct Rank {
    BlockCache blocks;
    std::vector<int32_t> free_states;      // the last is taken next
    std::map<int32_t, Sequence*> running;  // by number: order of arrival
    int64_t promised_blocks = 0;           // what the running ones will take at most
  };
  // Where a waiting sequence would start.
  struct Berth {
    int rank = -1;
    BlockCache::Beginning cached;
  };

  void Grow(StepPlan& plan, Rank& rank);
  void Preempt(StepPlan& plan, int32_t seq);
  Berth FindBerth(const Sequence& s) const;
  void Admit(StepPlan& plan);
  void Start(StepPlan& plan, int32_t seq, Sequence& s, Berth berth);
  void SharePrefill(Rank& rank);
  static StepEntry MakeEntry(int32_t seq, Sequence& s);
  static StepEntry MakeEncoderEntry(int32_t seq, const Sequence& s);
  absl::Status SetTokens(Request& request, Sequence& s) const;
  void TakeResult(const StepEntry& entry, EntryResult result, Sequence& s, SequenceUpdate& update);
  void FillBlocks(Sequence& s);
  void LeaveRank(int32_t seq, Sequence& s);

  const SchedulerOptions options_;
  const PrefixCache prefix_cache_;
  std::vector<Rank> ranks_;
  std::map<int32_t, Sequence> waiting_, running_;  // by number: order of arrival
  std::vector<int32_t> released_;
  std::vector<StepEntry> current_;  // of the plan that Next returned last
  PrefillBudget budget_;
  SchedulerStats stats_;
  int32_t next_seq_ = 0;
};

}  // namespace tokenferry

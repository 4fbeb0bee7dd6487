// What all ranks do in one step. Rank 0 makes it, broadcasts it, and every rank executes its part.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "core/ids.h"
#include "core/status.h"
#include "runtime/attention/rope.h"
#include "runtime/engine/sampler.h"
#include "runtime/model/model_spec.h"

namespace tokenferry {

enum class Wanted : uint8_t { kNo, kYes };

// A sequence that starts in this step, on the rank that keeps its cache until it is released. One that was released
// before it ended may start again, under its number, there or elsewhere.
struct NewSequence {
  int32_t seq = 0;
  RankId rank;
  std::vector<int32_t> blocks;  // of the rank's cache, in the order of tokens
  int64_t num_prompt_tokens = 0;
  SamplingParams sampling;
  std::vector<int32_t> cached_tokens;              // its first tokens, whose keys the blocks have already
  RopeFactors rope_factors = RopeFactors::kShort;  // by the most tokens that it may have; the same in every replay
  int32_t state = 0;                               // of the rank's, which is the sequence's until it is released
};

enum class Want : uint8_t {
  kNothing,  // a piece of a prompt, not its last
  kToken,    // sample the token after the last one
  kScores,   // natural-log probability of each token of `targets`
  kLogits,   // scores, and all logits and routing decisions
};

// Consecutive tokens of one sequence.
struct StepEntry {
  int32_t seq = 0;
  RankId rank;
  Stack stack = Stack::kDecoder;  // kEncoder: the whole input of the sequence's encoder, from position 0
  int64_t position = 0;           // of tokens[0]
  std::vector<int32_t> tokens;    // at least one
  // From its first_block-th on, the sequence's blocks are these from now on; empty: as they were.
  int64_t first_block = 0;
  std::vector<int32_t> blocks;
  Want want = Want::kNothing;
  std::vector<int32_t>
      targets;  // the token after each of `tokens`, may be one shorter; with kToken scores are wanted too
  Wanted routing = Wanted::kNo;  // kToken: the experts of the last token too
  Wanted trace = Wanted::kNo;    // kLogits: hidden states and router logits too
};

enum class StepKind : uint8_t {
  kRun,
  kIdle,  // no entries: the ranks release `released` and answer; what comes next may be long in coming
  kStop,  // no entries: the ranks release `released` and leave the loop
};

// The engine numbers steps, on every rank alike: a plan is the same whenever it is executed.
struct StepPlan {
  StepKind kind = StepKind::kRun;
  std::vector<NewSequence> started;
  std::vector<StepEntry> entries;  // by rank, within a rank in the order of rows: those of encoders first
  std::vector<int32_t> released;   // sequences whose cache is freed before the step
  Wanted stats = Wanted::kNo;      // the ranks' counters, with the results

  int64_t num_tokens() const;  // of all ranks
  int64_t max_tokens_per_rank(int num_ranks, Stack stack = Stack::kDecoder) const;
};

// What a rank reports back about its entries, in the plan's order. Layers are those of the entry's stack; an encoder
// has no logits.
struct EntryResult {
  int32_t seq = 0;
  absl::Status error;                      // what this sequence alone has met; the rest is empty then
  SampledToken sampled;                    // kToken
  std::vector<double> logprobs;            // per target
  std::vector<TokenLogprob> top_logprobs;  // per target SamplingParams::num_top_logprobs, as SampledToken::top
  std::vector<float> logits;               // kLogits: [tokens, V]
  std::vector<int32_t> expert_idx;         // kLogits: [L, tokens, K]; with `routing`: [L, 1, K]
  std::vector<float> expert_weight;        // kLogits: [L, tokens, K]; with `routing`: [L, 1, K]
  // `trace`: [all layers + 1, tokens, H], what each layer is given, and what the last one makes, before the final norm.
  std::vector<float> hidden_states;
  // `trace`, of models with indexers: [all layers, tokens, num_selected_keys] positions that each token sees
  // (SelectKeys).
  std::vector<int32_t> selected_keys;
  std::vector<float> router_logits;  // `trace`: [L, tokens, E] with the router's bias, before scoring and choice bias
};

// What a rank has counted since its engine was created. L MoE layers.
struct RankStats {
  std::vector<int64_t> rows_per_slot;         // [L, slots of the rank] selections computed here
  std::vector<int64_t> dropped, rerouted;     // [L] selections of tokens at home
  std::vector<int64_t> bytes_sent_per_rank;   // [R] rows and expert outputs
  std::vector<double> wait_seconds_per_rank;  // [R] in all communication
  double exchange_seconds = 0;                // plan, dispatch and combine
};

// A rank's answer to a plan.
struct RankResults {
  std::vector<EntryResult> entries;  // of its own entries, in the plan's order
  std::vector<RankStats> stats;      // one, if the plan wanted them
};

// Byte strings for the wire. Decode refuses what is cut short or does not add up.
std::string Encode(const StepPlan& plan);
absl::StatusOr<StepPlan> DecodeStepPlan(absl::string_view bytes);
std::string Encode(const RankResults& results);
absl::StatusOr<RankResults> DecodeResults(absl::string_view bytes);

}  // namespace tokenferry

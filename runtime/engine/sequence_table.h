// A rank's own sequences, as the plans so far have made them. A rank decides nothing: which blocks a sequence has is in
// the plan.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <vector>

#include "core/ids.h"
#include "core/status.h"
#include "runtime/engine/sampler.h"
#include "runtime/engine/step_plan.h"
#include "runtime/engine/token_masks.h"

namespace tokenferry {

class SequenceTable {
 public:
  struct Sequence {
    std::vector<int32_t> blocks;  // of the rank's cache, in the order of tokens
    int64_t num_prompt_tokens = 0;
    SamplingParams sampling;
    TokenCounts counts;                   // of the tokens so far; kept only for penalties
    std::shared_ptr<GrammarRun> grammar;  // of SamplingParams::grammar, behind the tokens so far; null: none
    RopeFactors rope_factors = RopeFactors::kShort;
    int32_t state = 0;                       // of the rank's
    int64_t num_source_tokens = 0;           // of its encoder's input, once that is known
    std::vector<int32_t> expert_selections;  // SequenceTokens::selections, where the model has capacities per sequence
  };

  // Of rank `rank`, whose cache has `num_blocks` blocks and `num_states` states.
  SequenceTable(RankId rank, int64_t num_blocks, int64_t num_states)
      : rank_(rank), num_blocks_(num_blocks), num_states_(num_states) {}

  // Before a step: what has ended goes, what starts comes, and those that run get their blocks and tokens. Internal
  // when the plan cannot be carried out here: a sequence that is not there, or a block or a state that the
  // cache does not have.
  absl::Status Apply(const StepPlan& plan);

  const Sequence& at(int32_t seq) const { return sequences_.at(seq); }
  Sequence& at(int32_t seq) { return sequences_.at(seq); }

  // See Grammars.
  void SetVocabulary(std::unique_ptr<const Vocabulary> vocabulary) { grammars_.SetVocabulary(std::move(vocabulary)); }

 private:
  absl::Status Start(const NewSequence& started);
  absl::Status Extend(const StepEntry& entry);
  absl::Status PutBlocks(int32_t seq, int64_t first, absl::Span<const int32_t> blocks, Sequence& sequence) const;

  const RankId rank_;
  const int64_t num_blocks_, num_states_;
  Grammars grammars_;  // which the sequences look into
  std::map<int32_t, Sequence> sequences_;
};

}  // namespace tokenferry

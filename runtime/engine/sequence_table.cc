#include "runtime/engine/sequence_table.h"

#include <algorithm>
#include <string>
#include <utility>

namespace tokenferry {
namespace {

// Only what sampling will look at is kept of a sequence's tokens, of which these stand at `position`.
void Count(absl::Span<const int32_t> tokens, int64_t position, SequenceTable::Sequence& sequence) {
  const bool counts = UsesCounts(sequence.sampling);
  if (!counts && sequence.grammar == nullptr) return;
  const auto num_tokens = static_cast<int64_t>(tokens.size());
  const int64_t num_prompt = std::clamp<int64_t>(sequence.num_prompt_tokens - position, 0, num_tokens);
  if (counts) sequence.counts.AddPrompt(tokens.first(num_prompt));
  for (const int32_t token : tokens.subspan(num_prompt)) {
    if (counts) sequence.counts.AddOutput(token);
    if (sequence.grammar != nullptr) sequence.grammar->Take(token);
  }
}

}  // namespace

absl::Status SequenceTable::Apply(const StepPlan& plan) {
  for (const int32_t seq : plan.released) sequences_.erase(seq);  // most are of other ranks
  for (const NewSequence& started : plan.started) {
    if (started.rank == rank_) TF_RETURN_IF_ERROR(Start(started));
  }
  for (const StepEntry& entry : plan.entries) {
    if (entry.rank == rank_) TF_RETURN_IF_ERROR(Extend(entry));
  }
  return absl::OkStatus();
}

absl::Status SequenceTable::PutBlocks(int32_t seq, int64_t first, absl::Span<const int32_t> blocks,
                                      Sequence& sequence) const {
  for (const int32_t block : blocks) {
    if (block >= 0 && block < num_blocks_) continue;
    return absl::InternalError(
        absl::StrCat("sequence ", seq, " is given block ", block, " of a cache of ", num_blocks_));
  }
  const auto size = static_cast<int64_t>(sequence.blocks.size());
  if (first < 0 || first > size) {
    return absl::InternalError(absl::StrCat("sequence ", seq, " is given its block ", first, ", but has ", size));
  }
  sequence.blocks.resize(std::max(size, first + static_cast<int64_t>(blocks.size())));
  std::copy(blocks.begin(), blocks.end(), sequence.blocks.begin() + first);
  return absl::OkStatus();
}

absl::Status SequenceTable::Start(const NewSequence& started) {
  if (started.state < 0 || started.state >= num_states_) {
    return absl::InternalError(
        absl::StrCat("sequence ", started.seq, " is given state ", started.state, " of ", num_states_));
  }
  Sequence sequence{
      {}, started.num_prompt_tokens, started.sampling, {}, nullptr, started.rope_factors, started.state, 0, {}};
  const std::string grammar = std::exchange(sequence.sampling.grammar, "");
  if (!grammar.empty()) sequence.grammar = std::make_shared<GrammarRun>(grammars_.Open(grammar));
  TF_RETURN_IF_ERROR(PutBlocks(started.seq, 0, started.blocks, sequence));
  Count(started.cached_tokens, 0, sequence);
  sequences_[started.seq] = std::move(sequence);
  return absl::OkStatus();
}

absl::Status SequenceTable::Extend(const StepEntry& entry) {
  const auto it = sequences_.find(entry.seq);
  if (it == sequences_.end()) {
    return absl::InternalError(absl::StrCat("sequence ", entry.seq, " is in the plan, but has not started"));
  }
  if (entry.stack == Stack::kEncoder) {
    it->second.num_source_tokens = static_cast<int64_t>(entry.tokens.size());
    return absl::OkStatus();
  }
  TF_RETURN_IF_ERROR(PutBlocks(entry.seq, entry.first_block, entry.blocks, it->second));
  Count(entry.tokens, entry.position, it->second);
  return absl::OkStatus();
}

}  // namespace tokenferry

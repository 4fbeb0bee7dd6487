#include "runtime/engine/step_plan.h"

#include <algorithm>

#include "core/io/archive.h"

namespace tokenferry {
// Found by argument-dependent lookup, which does not look into unnamed namespaces: hence static.
template <class Archive>
static void Fields(Archive& a, NewSequence& s) {
  a(s.seq), a(s.rank.value), a(s.blocks), a(s.num_prompt_tokens), a(s.sampling), a(s.cached_tokens);
  a(s.rope_factors), a(s.state);
}
template <class Archive>
static void Fields(Archive& a, StepEntry& e) {
  a(e.seq), a(e.rank.value), a(e.stack), a(e.position), a(e.tokens), a(e.first_block), a(e.blocks);
  a(e.want), a(e.targets), a(e.routing), a(e.trace);
}
template <class Archive>
static void Fields(Archive& a, StepPlan& p) {
  a(p.kind), a(p.started), a(p.entries), a(p.released), a(p.stats);
}
template <class Archive>
static void Fields(Archive& a, TokenLogprob& t) {
  a(t.token), a(t.logprob);
}
template <class Archive>
static void Fields(Archive& a, EntryResult& r) {
  auto code = static_cast<int32_t>(r.error.code());
  std::string message(r.error.message());
  a(code), a(message);
  if constexpr (std::is_same_v<Archive, ArchiveReader>) {
    r.error = absl::Status(static_cast<absl::StatusCode>(code), message);
  }
  a(r.seq), a(r.sampled.token), a(r.sampled.logprob), a(r.sampled.top), a(r.logprobs);
  a(r.top_logprobs), a(r.logits), a(r.expert_idx), a(r.expert_weight), a(r.hidden_states), a(r.router_logits);
  a(r.selected_keys);
}

template <class Archive>
static void Fields(Archive& a, RankStats& s) {
  auto& [rows_per_slot, dropped, rerouted, bytes_sent_per_rank, wait_seconds_per_rank, exchange_seconds] = s;
  a(rows_per_slot), a(dropped), a(rerouted), a(bytes_sent_per_rank), a(wait_seconds_per_rank), a(exchange_seconds);
}
template <class Archive>
static void Fields(Archive& a, RankResults& r) {
  a(r.entries), a(r.stats);
}

int64_t StepPlan::num_tokens() const {
  int64_t sum = 0;
  for (const StepEntry& e : entries) sum += static_cast<int64_t>(e.tokens.size());
  return sum;
}

int64_t StepPlan::max_tokens_per_rank(int num_ranks, Stack stack) const {
  std::vector<int64_t> tokens(num_ranks);
  for (const StepEntry& e : entries) {
    if (e.stack == stack) tokens[e.rank.value] += static_cast<int64_t>(e.tokens.size());
  }
  return *std::max_element(tokens.begin(), tokens.end());
}

std::string Encode(const StepPlan& plan) {
  ArchiveWriter writer;
  Fields(writer, const_cast<StepPlan&>(plan));
  return writer.Take();
}

absl::StatusOr<StepPlan> DecodeStepPlan(absl::string_view bytes) {
  StepPlan plan;
  ArchiveReader reader(bytes);
  Fields(reader, plan);
  if (!reader.complete())
    return absl::DataLossError(absl::StrCat("step plan of ", bytes.size(), " bytes does not decode"));
  return plan;
}

std::string Encode(const RankResults& results) {
  ArchiveWriter writer;
  writer(results);
  return writer.Take();
}

absl::StatusOr<RankResults> DecodeResults(absl::string_view bytes) {
  RankResults results;
  ArchiveReader reader(bytes);
  reader(results);
  if (!reader.complete())
    return absl::DataLossError(absl::StrCat("step results of ", bytes.size(), " bytes do not decode"));
  return results;
}

}  // namespace tokenferry

#include "runtime/engine/scheduler.h"

#include <algorithm>

#include "absl/algorithm/container.h"
#include "core/check.h"
#include "runtime/attention/attention_ops.h"

namespace tokenferry {
namespace {

int64_t BlocksFor(const Request& request) {
  return CacheBlocks(static_cast<int64_t>(request.prompt.size()) + request.max_new_tokens);
}

}  // namespace

Scheduler::Scheduler(const SchedulerOptions& options)
    : options_(options), ranks_(options.num_ranks, {BlockPool(options.cache_tokens_per_rank / kCacheBlockTokens), 0}) {}

absl::StatusOr<int32_t> Scheduler::Add(Request request) {
  if (request.prompt.empty()) return absl::InvalidArgumentError("the prompt is empty: give at least one token");
  if (request.kind == RequestKind::kGenerate && request.max_new_tokens < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("max-tokens is ", request.max_new_tokens, ", but must be at least 1"));
  }
  for (const int32_t token : request.prompt) {
    if (token >= 0 && token < options_.vocab_size) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("the prompt has token ", token, ", but the model's tokens are 0 to ", options_.vocab_size - 1));
  }
  TF_RETURN_IF_ERROR(Validate(request.sampling));
  TF_RETURN_IF_ERROR(ValidateTokens(request.sampling, options_.vocab_size));
  const int64_t needed = BlocksFor(request), capacity = options_.cache_tokens_per_rank / kCacheBlockTokens;
  if (needed > capacity) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "a prompt of ", request.prompt.size(), " tokens with ", request.max_new_tokens, " to generate needs ", needed,
        " cache blocks of ", kCacheBlockTokens, " tokens, but a rank has ", capacity));
  }
  waiting_.emplace_back(next_seq_, std::move(request));
  return next_seq_++;
}

void Scheduler::Admit(StepPlan& plan) {
  while (!waiting_.empty()) {
    auto& [seq, request] = waiting_.front();
    const int64_t needed = BlocksFor(request);
    int best = -1;
    for (int r = 0; r < options_.num_ranks; ++r) {
      if (ranks_[r].num_sequences >= options_.max_sequences_per_rank || ranks_[r].blocks.num_free() < needed) continue;
      if (best < 0 || ranks_[r].blocks.num_free() > ranks_[best].blocks.num_free()) best = r;
    }
    if (best < 0) return;  // in order of arrival: nobody overtakes
    ranks_[best].num_sequences += 1;
    Sequence s;
    s.request = std::move(request);
    s.rank = RankId(best);
    s.blocks = ranks_[best].blocks.Take(needed);
    plan.started.push_back({seq, s.rank, s.blocks, s.num_prompt_tokens(), s.request.sampling});
    running_.emplace(seq, std::move(s));
    waiting_.pop_front();
  }
}

void Scheduler::AddEntry(StepPlan& plan, int32_t seq, Sequence& s, int64_t& prefill_left) {
  const std::vector<int32_t>& prompt = s.request.prompt;
  StepEntry e;
  e.seq = seq;
  e.rank = s.rank;
  e.position = s.num_done;
  const int64_t prompt_left = s.num_prompt_tokens() - s.num_done;
  if (prompt_left <= 0) {
    e.tokens = {s.last_token};
  } else {
    const int64_t count = std::min(prompt_left, prefill_left);
    if (count == 0) return;
    prefill_left -= count;
    e.tokens.assign(prompt.begin() + s.num_done, prompt.begin() + s.num_done + count);
  }
  const auto count = static_cast<int64_t>(e.tokens.size());
  if (s.request.kind == RequestKind::kGenerate) {
    e.want = prompt_left <= count ? Want::kToken : Want::kNothing;
  } else {
    e.want = s.request.kind == RequestKind::kScore ? Want::kScores : Want::kLogits;
    const int64_t target_end = std::min(s.num_done + count + 1, s.num_prompt_tokens());
    e.targets.assign(prompt.begin() + s.num_done + 1, prompt.begin() + target_end);
  }
  s.num_in_flight = count;
  plan.entries.push_back(std::move(e));
}

StepPlan Scheduler::Next() {
  StepPlan plan;
  plan.released = std::exchange(released_, {});
  Admit(plan);
  for (int r = 0; r < options_.num_ranks; ++r) {
    int64_t prefill_left = options_.prefill_chunk;
    for (auto& [seq, s] : running_) {
      if (s.rank.value == r) AddEntry(plan, seq, s, prefill_left);
    }
  }
  current_ = plan;
  return plan;
}

absl::StatusOr<std::vector<SequenceUpdate>> Scheduler::Accept(const std::vector<EntryResult>& results) {
  if (results.size() != current_.entries.size()) {
    return absl::InternalError(
        absl::StrCat("a step has ", current_.entries.size(), " entries, but ", results.size(), " results came back"));
  }
  std::vector<SequenceUpdate> updates;
  for (size_t i = 0; i < results.size(); ++i) {
    const StepEntry& entry = current_.entries[i];
    if (results[i].seq != entry.seq) {
      return absl::InternalError(
          absl::StrCat("a step's result ", i, " is of sequence ", results[i].seq, " instead of ", entry.seq));
    }
    auto it = running_.find(entry.seq);
    if (it == running_.end()) continue;
    Sequence& s = it->second;
    s.num_done += std::exchange(s.num_in_flight, 0);
    SequenceUpdate update;
    update.seq = entry.seq;
    if (!results[i].error.ok()) {
      update.error = results[i].error;
      update.end = SequenceEnd::kError;
    } else if (entry.want == Want::kNothing) {
      continue;
    } else if (entry.want == Want::kToken) {
      update.has_token = true;
      update.token = results[i].sampled;
      s.last_token = update.token.token;
      s.num_generated += 1;
      if (absl::c_linear_search(s.request.sampling.stop_token_ids, s.last_token)) {
        update.end = SequenceEnd::kStopToken;
      } else if (s.num_generated >= s.request.max_new_tokens) {
        update.end = SequenceEnd::kLength;
      }
    } else {
      update.position = entry.position;
      update.result = results[i];
      if (s.num_done == s.num_prompt_tokens()) update.end = SequenceEnd::kLength;
    }
    if (update.finished()) Release(entry.seq);
    updates.push_back(std::move(update));
  }
  return updates;
}

void Scheduler::Release(int32_t seq) {
  auto it = running_.find(seq);
  if (it == running_.end()) return;
  RankLoad& load = ranks_[it->second.rank.value];
  load.blocks.Return(it->second.blocks);
  load.num_sequences -= 1;
  released_.push_back(seq);
  running_.erase(it);
}

void Scheduler::Finish(int32_t seq) {
  for (auto it = waiting_.begin(); it != waiting_.end(); ++it) {
    if (it->first == seq) {
      waiting_.erase(it);
      return;
    }
  }
  Release(seq);
}

RankId Scheduler::rank_of(int32_t seq) const {
  auto it = running_.find(seq);
  TF_CHECK(it != running_.end());
  return it->second.rank;
}

}  // namespace tokenferry

#include "runtime/engine/scheduler.h"

#include <algorithm>
#include <iterator>
#include <limits>
#include <numeric>
#include <tuple>
#include <utility>

#include "absl/algorithm/container.h"
#include "core/check.h"
#include "runtime/attention/attention_ops.h"

namespace tokenferry {
namespace {

// A rank that has a sequence's beginning is preferred unless it runs so many more sequences than another one: a prompt
// is computed once, but every step waits for the rank with the most rows.
constexpr int64_t kMaxLead = 4;

absl::Status CheckRequest(const Request& r, int64_t vocab_size) {
  if (r.prompt.empty()) return absl::InvalidArgumentError("the prompt is empty: give at least one token");
  if (r.kind == RequestKind::kGenerate && r.max_new_tokens < 1) {
    return absl::InvalidArgumentError(absl::StrCat("max-tokens is ", r.max_new_tokens, ", but must be at least 1"));
  }
  if (!r.output.empty() && static_cast<int64_t>(r.output.size()) >= r.max_new_tokens) {
    return absl::InvalidArgumentError(
        absl::StrCat("max-tokens is ", r.max_new_tokens, ", but ", r.output.size(), " have been generated already"));
  }
  for (const int32_t token : r.prompt) TF_RETURN_IF_ERROR(CheckToken("the prompt", token, vocab_size));
  for (const int32_t token : r.decoder_input) TF_RETURN_IF_ERROR(CheckToken("the decoder's input", token, vocab_size));
  for (const int32_t token : r.output) TF_RETURN_IF_ERROR(CheckToken("the output so far", token, vocab_size));
  TF_RETURN_IF_ERROR(Validate(r.sampling));
  return ValidateTokens(r.sampling, vocab_size);
}

}  // namespace

// Positions of encoder and decoder share blocks: a block has rows for both.
int64_t Scheduler::Sequence::max_blocks() const {
  return std::max(CacheBlocks(max_tokens()), CacheBlocks(static_cast<int64_t>(encoder_tokens.size())));
}

int64_t Scheduler::Sequence::first_blocks() const {
  return std::max(CacheBlocks(num_tokens()), CacheBlocks(static_cast<int64_t>(encoder_tokens.size())));
}

Scheduler::Scheduler(const SchedulerOptions& options)
    : options_(options),
      prefix_cache_(options.has_states || options.has_encoder() ? PrefixCache::kOff : options.prefix_cache),
      budget_(options.prefill_chunk, options.step_target) {
  std::vector<int32_t> states(options.max_sequences_per_rank);
  std::iota(states.rbegin(), states.rend(), 0);
  for (int r = 0; r < options.num_ranks; ++r) {
    ranks_.push_back({BlockCache(options.cache_tokens_per_rank / kCacheBlockTokens), states, {}, 0});
  }
}

// The request's prompt becomes the sequence's tokens, or its encoder's input.
absl::Status Scheduler::SetTokens(Request& request, Sequence& s) const {
  s.tokens = std::exchange(request.prompt, {});
  if (options_.has_encoder()) {
    s.encoder_tokens = std::exchange(s.tokens, std::exchange(request.decoder_input, {}));
    if (s.tokens.empty()) s.tokens = {options_.decoder_start_token};
    if (request.prompt_scores == Wanted::kYes) {
      return absl::InvalidArgumentError("scores of the prompt: the model reads it with an encoder, which has none");
    }
    const auto num_tokens = static_cast<int64_t>(s.encoder_tokens.size());
    if (num_tokens > options_.encoder_tokens_per_rank) {
      return absl::ResourceExhaustedError(absl::StrCat("a prompt of ", num_tokens,
                                                       " tokens is read in one step, but a rank ", "takes ",
                                                       options_.encoder_tokens_per_rank, " in a step"));
    }
  } else if (!request.decoder_input.empty()) {
    return absl::InvalidArgumentError("the model has no decoder input: it has no encoder");
  }
  s.num_prompt_tokens = s.num_tokens();
  return absl::OkStatus();
}

absl::StatusOr<int32_t> Scheduler::Add(Request request) {
  TF_RETURN_IF_ERROR(CheckRequest(request, options_.vocab_size));
  Sequence s;
  TF_RETURN_IF_ERROR(SetTokens(request, s));
  s.request = std::move(request);
  const int64_t capacity = options_.cache_tokens_per_rank / kCacheBlockTokens;
  if (s.max_blocks() > capacity) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "a prompt of ", s.num_prompt_tokens, " tokens with ", s.request.max_new_tokens, " to generate needs ",
        s.max_blocks(), " cache blocks of ", kCacheBlockTokens, " tokens, but a rank has ", capacity));
  }
  s.rope_factors = FactorsFor(options_.rope, s.max_tokens());
  s.cache_scope = absl::StrCat(s.rope_factors == RopeFactors::kLong ? "long:" : "short:", s.request.cache_scope);
  s.tokens.insert(s.tokens.end(), s.request.output.begin(), s.request.output.end());
  s.request.output = {};
  waiting_.emplace(next_seq_, std::move(s));
  return next_seq_++;
}

// Every decoding sequence gets room for one token more, the oldest first.
void Scheduler::Grow(StepPlan& plan, Rank& rank) {
  for (auto& [seq, s] : rank.running) {
    if (!s->decodes()) continue;
    if (CacheBlocks(s->num_tokens()) > static_cast<int64_t>(s->blocks.size())) {
      while (rank.blocks.num_available() == 0 && rank.running.rbegin()->first != seq) {
        Preempt(plan, rank.running.rbegin()->first);
      }
      if (rank.blocks.num_available() == 0) continue;  // the youngest waits with what it has
      s->blocks.push_back(rank.blocks.Take(1)[0]);
    }
    s->num_in_flight = 1;
  }
}

void Scheduler::LeaveRank(int32_t seq, Sequence& s) {
  Rank& rank = ranks_[s.rank.value];
  rank.blocks.Release(s.blocks);
  rank.free_states.push_back(std::exchange(s.state, -1));
  rank.promised_blocks -= s.max_blocks();
  rank.running.erase(seq);
}

void Scheduler::Preempt(StepPlan& plan, int32_t seq) {
  auto node = running_.extract(seq);
  Sequence& s = node.mapped();
  LeaveRank(seq, s);
  s.blocks.clear();
  s.num_filled_blocks = s.num_sent_blocks = s.num_done = s.num_in_flight = 0;
  waiting_.insert(std::move(node));
  plan.released.push_back(seq);
  stats_.num_preemptions += 1;
}

Scheduler::Berth Scheduler::FindBerth(const Sequence& s) const {
  auto least_running = std::numeric_limits<int64_t>::max();
  for (const Rank& rank : ranks_) least_running = std::min(least_running, static_cast<int64_t>(rank.running.size()));
  const bool may_skip = prefix_cache_ == PrefixCache::kOn && s.may_skip_tokens();
  Berth best;
  std::tuple<int64_t, int64_t> best_value;
  for (int r = 0; r < options_.num_ranks; ++r) {
    const Rank& rank = ranks_[r];
    const auto num_running = static_cast<int64_t>(rank.running.size());
    if (num_running >= options_.max_sequences_per_rank) continue;
    BlockCache::Beginning cached;
    // The last token is computed in any case: what follows it is wanted.
    if (may_skip) cached = rank.blocks.Find(s.cache_scope, s.tokens, (s.num_tokens() - 1) / kCacheBlockTokens);
    const auto num_cached = static_cast<int64_t>(cached.blocks.size());
    const int64_t num_missing = s.first_blocks() - num_cached;
    if (num_missing > rank.blocks.num_available() - cached.num_unheld) continue;
    const std::tuple value(num_running <= least_running + kMaxLead ? num_cached : 0, -rank.promised_blocks);
    if (best.rank >= 0 && value <= best_value) continue;
    best = {r, std::move(cached)};
    best_value = value;
  }
  return best;
}

void Scheduler::Admit(StepPlan& plan) {
  while (!waiting_.empty()) {
    Berth berth = FindBerth(waiting_.begin()->second);
    if (berth.rank < 0) return;  // in order of arrival: nobody overtakes
    auto node = waiting_.extract(waiting_.begin());
    const int32_t seq = node.key();
    Sequence& s = running_.insert(std::move(node)).position->second;
    Start(plan, seq, s, std::move(berth));
  }
}

void Scheduler::Start(StepPlan& plan, int32_t seq, Sequence& s, Berth berth) {
  Rank& rank = ranks_[berth.rank];
  rank.running.emplace(seq, &s);
  rank.promised_blocks += s.max_blocks();
  s.rank = RankId(berth.rank);
  s.blocks = std::move(berth.cached.blocks);
  rank.blocks.Hold(s.blocks);
  s.state = rank.free_states.back();
  rank.free_states.pop_back();
  s.num_filled_blocks = static_cast<int64_t>(s.blocks.size());
  s.num_done = s.num_filled_blocks * kCacheBlockTokens;
  const std::vector<int32_t> empty = rank.blocks.Take(s.first_blocks() - s.num_filled_blocks);
  s.blocks.insert(s.blocks.end(), empty.begin(), empty.end());
  s.num_sent_blocks = static_cast<int64_t>(s.blocks.size());
  if (!std::exchange(s.has_started, true)) {
    s.num_cached = std::min(s.num_done, s.num_prompt_tokens);
    stats_.prefix_query_tokens += s.num_prompt_tokens;
    stats_.prefix_hit_tokens += s.num_cached;
  }
  if (s.num_generated() > 0) stats_.num_replays += 1;
  plan.started.push_back({seq,
                          s.rank,
                          s.blocks,
                          s.num_prompt_tokens,
                          s.request.sampling,
                          {s.tokens.begin(), s.tokens.begin() + s.num_done},
                          s.rope_factors,
                          s.state});
}

// Pieces of prompts, about equal ones so that a short prompt need not wait for a long one, but no smaller than a block:
// small pieces for many would keep all of them waiting.
void Scheduler::SharePrefill(Rank& rank) {
  std::vector<Sequence*> prompts;
  for (const auto& [seq, s] : rank.running) {
    if (!s->decodes()) prompts.push_back(s);
  }
  int64_t left = budget_.tokens_per_rank(), num_waiting = static_cast<int64_t>(prompts.size());
  int64_t encoder_left = options_.encoder_tokens_per_rank;
  for (Sequence* s : prompts) {
    const int64_t share = std::min(left, std::max(kCacheBlockTokens, left / num_waiting--));
    // A piece is either all reported already (before a preemption) or all new.
    const int64_t end = s->scores_prompt() && s->num_done < s->num_reported ? s->num_reported : s->num_tokens();
    s->num_in_flight = std::min(share, end - s->num_done);
    if (s->is_encoding()) {
      const auto num_encoded = static_cast<int64_t>(s->encoder_tokens.size());
      if (num_encoded > encoder_left) s->num_in_flight = 0;  // in the next step
      if (s->num_in_flight > 0) encoder_left -= num_encoded;
    }
    left -= s->num_in_flight;
  }
}

StepEntry Scheduler::MakeEntry(int32_t seq, Sequence& s) {
  StepEntry e;
  e.seq = seq;
  e.rank = s.rank;
  e.position = s.num_done;
  const int64_t end = s.num_done + s.num_in_flight;
  e.tokens.assign(s.tokens.begin() + s.num_done, s.tokens.begin() + end);
  e.first_block = std::exchange(s.num_sent_blocks, static_cast<int64_t>(s.blocks.size()));
  e.blocks.assign(s.blocks.begin() + e.first_block, s.blocks.end());
  if (s.scores_prompt() && s.num_done >= s.num_reported && s.num_done < s.num_prompt_tokens) {
    const int64_t target_end = std::min(end + 1, s.num_prompt_tokens);
    e.targets.assign(s.tokens.begin() + s.num_done + 1, s.tokens.begin() + target_end);
    e.want = s.request.kind == RequestKind::kLogits ? Want::kLogits : Want::kScores;
    if (e.want == Want::kLogits) e.trace = s.request.trace;
  }
  if (s.request.kind == RequestKind::kGenerate) {
    e.want = end == s.num_tokens() ? Want::kToken : e.targets.empty() ? Want::kNothing : Want::kScores;
    e.routing = s.request.routing;
  }
  return e;
}

StepEntry Scheduler::MakeEncoderEntry(int32_t seq, const Sequence& s) {
  StepEntry e;
  e.seq = seq;
  e.rank = s.rank;
  e.stack = Stack::kEncoder;
  e.tokens = s.encoder_tokens;
  // Once: a sequence that was preempted after its first step has been reported that far.
  if (s.request.kind == RequestKind::kLogits && s.num_reported == 0) e.want = Want::kLogits, e.trace = s.request.trace;
  return e;
}

StepPlan Scheduler::Next() {
  StepPlan plan;
  plan.released = std::exchange(released_, {});
  for (Rank& rank : ranks_) Grow(plan, rank);
  Admit(plan);
  for (Rank& rank : ranks_) {
    SharePrefill(rank);
    for (const auto& [seq, s] : rank.running) {
      if (s->is_encoding()) plan.entries.push_back(MakeEncoderEntry(seq, *s));
    }
    for (auto& [seq, s] : rank.running) {
      if (s->num_in_flight > 0) plan.entries.push_back(MakeEntry(seq, *s));
    }
  }
  current_ = plan.entries;
  return plan;
}

absl::StatusOr<std::vector<SequenceUpdate>> Scheduler::Accept(std::vector<EntryResult> results) {
  if (results.size() != current_.size()) {
    return absl::InternalError(
        absl::StrCat("a step has ", current_.size(), " entries, but ", results.size(), " results came back"));
  }
  std::vector<SequenceUpdate> updates;
  for (size_t i = 0; i < results.size(); ++i) {
    const StepEntry& entry = current_[i];
    if (results[i].seq != entry.seq) {
      return absl::InternalError(
          absl::StrCat("a step's result ", i, " is of sequence ", results[i].seq, " instead of ", entry.seq));
    }
    auto it = running_.find(entry.seq);
    if (it == running_.end()) continue;
    SequenceUpdate update;
    update.seq = entry.seq;
    TakeResult(entry, std::move(results[i]), it->second, update);
    if (update.finished()) Finish(entry.seq);
    if (entry.want != Want::kNothing || update.finished()) updates.push_back(std::move(update));
  }
  return updates;
}

void Scheduler::TakeResult(const StepEntry& entry, EntryResult result, Sequence& s, SequenceUpdate& update) {
  if (entry.stack == Stack::kDecoder) s.num_done += std::exchange(s.num_in_flight, 0);
  if (!result.error.ok()) {
    update.error = result.error;
    update.end = SequenceEnd::kError;
    return;
  }
  if (entry.stack == Stack::kEncoder) {
    update.stack = Stack::kEncoder;
    update.result = std::move(result);
    return;
  }
  FillBlocks(s);
  update.position = entry.position;
  if (s.scores_prompt()) s.num_reported = std::max(s.num_reported, std::min(s.num_done, s.num_prompt_tokens));
  if (entry.want == Want::kToken) {
    update.has_token = true;
    update.token = std::exchange(result.sampled, {});
    if (s.num_generated() == 0) update.num_cached_tokens = s.num_cached;
    s.tokens.push_back(update.token.token);
    if (absl::c_linear_search(s.request.sampling.stop_token_ids, update.token.token)) {
      update.end = SequenceEnd::kStopToken;
    } else if (s.num_generated() >= s.request.max_new_tokens) {
      update.end = SequenceEnd::kLength;
    }
  } else if (s.request.kind != RequestKind::kGenerate && s.num_done == s.num_prompt_tokens) {
    update.end = SequenceEnd::kLength;
  }
  update.result = std::move(result);
}

// Tells the cache of blocks that have become full. Where it has the same contents already, the sequence goes on with
// that block: the bits are the same, and the memory of one of them is free.
void Scheduler::FillBlocks(Sequence& s) {
  if (prefix_cache_ == PrefixCache::kOff || s.request.kind != RequestKind::kGenerate) return;
  BlockCache& cache = ranks_[s.rank.value].blocks;
  for (int64_t& i = s.num_filled_blocks; (i + 1) * kCacheBlockTokens <= s.num_done; ++i) {
    const absl::Span<const int32_t> tokens =
        absl::MakeConstSpan(s.tokens).subspan(i * kCacheBlockTokens, kCacheBlockTokens);
    const int32_t block = cache.Fill(s.blocks[i], i == 0 ? -1 : s.blocks[i - 1], s.cache_scope, tokens);
    if (block == s.blocks[i]) continue;
    s.blocks[i] = block;
    s.num_sent_blocks = std::min(s.num_sent_blocks, i);
  }
}

void Scheduler::Observe(absl::Duration took) {
  if (options_.step_target == absl::InfiniteDuration()) return;
  std::vector<int64_t> tokens(options_.num_ranks), decodes(options_.num_ranks);
  for (const StepEntry& e : current_) {
    tokens[e.rank.value] += static_cast<int64_t>(e.tokens.size());
    decodes[e.rank.value] += e.tokens.size() == 1 ? 1 : 0;
  }
  const auto busiest = std::max_element(tokens.begin(), tokens.end()) - tokens.begin();
  budget_.Observe(tokens[busiest], decodes[busiest], took);
}

void Scheduler::Finish(int32_t seq) {
  if (waiting_.erase(seq) > 0) return;
  const auto it = running_.find(seq);
  if (it == running_.end()) return;
  LeaveRank(seq, it->second);
  released_.push_back(seq);
  running_.erase(it);
}

SchedulerStats Scheduler::stats() const {
  SchedulerStats stats = stats_;
  stats.num_running = static_cast<int64_t>(running_.size());
  stats.num_waiting = static_cast<int64_t>(waiting_.size());
  for (const Rank& rank : ranks_) {
    stats.num_blocks += rank.blocks.num_blocks();
    stats.num_held_blocks += rank.blocks.num_held();
  }
  return stats;
}

}  // namespace tokenferry

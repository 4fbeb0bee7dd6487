// What an engine takes from a step for its sequences: logits, samples, scores, routing.
#include <algorithm>

#include "absl/algorithm/container.h"
#include "runtime/engine/engine.h"

namespace tokenferry {

// expert_idx and expert_weight are of this rank's tokens, [L, T, K].
void Engine::TakeRouting(const std::vector<const StepEntry*>& mine, absl::Span<const int32_t> expert_idx,
                         absl::Span<const float> expert_weight, std::vector<EntryResult>& results) const {
  const int64_t K = model_.moe.router.top_k, L = most_moe_layers();
  const int64_t T = static_cast<int64_t>(expert_idx.size()) / std::max<int64_t>(L * K, 1);
  int64_t end = 0;
  for (size_t i = 0; i < mine.size(); ++i) {
    const auto n = static_cast<int64_t>(mine[i]->tokens.size());
    end += n;
    if (!results[i].error.ok()) continue;
    const int64_t wanted = mine[i]->want == Want::kLogits ? n : mine[i]->routing == Wanted::kYes ? 1 : 0;
    for (int64_t l = 0; wanted > 0 && l < model_.num_moe_layers(mine[i]->stack); ++l) {
      const auto idx = expert_idx.subspan((l * T + end - wanted) * K, wanted * K);
      const auto weight = expert_weight.subspan((l * T + end - wanted) * K, wanted * K);
      results[i].expert_idx.insert(results[i].expert_idx.end(), idx.begin(), idx.end());
      results[i].expert_weight.insert(results[i].expert_weight.end(), weight.begin(), weight.end());
    }
  }
}

// Computes the logits that the entries want, a slice of rows at a time, and what is wanted of them.
absl::Status Engine::Score(const std::vector<const StepEntry*>& mine, std::vector<EntryResult>& results) {
  struct Wanted {
    int32_t row;
    size_t entry;
    int64_t token;  // within the entry
  };
  std::vector<Wanted> wanted;
  int32_t row = 0;
  for (size_t i = 0; i < mine.size(); ++i) {
    results[i].seq = mine[i]->seq;
    const int64_t n = static_cast<int64_t>(mine[i]->tokens.size());
    const bool only_last = mine[i]->want == Want::kToken && mine[i]->targets.empty();
    const bool has_none = mine[i]->want == Want::kNothing || mine[i]->stack == Stack::kEncoder;
    const int64_t first = has_none ? n : only_last ? n - 1 : 0;
    for (int64_t t = first; t < n; ++t) wanted.push_back({row + static_cast<int32_t>(t), i, t});
    row += static_cast<int32_t>(n);
  }
  const int64_t V = model_.vocab_size;
  int32_t* const device_rows = inputs_.as<int32_t>() + 3 * max_tokens();
  for (size_t begin = 0; begin < wanted.size(); begin += Transformer::kLogitRows) {
    const size_t n = std::min<size_t>(Transformer::kLogitRows, wanted.size() - begin);
    std::vector<int32_t> rows;
    for (size_t i = begin; i < begin + n; ++i) rows.push_back(wanted[i].row);
    stream_->CopyToDevice(device_rows, rows.data(), n * sizeof(int32_t));
    transformer_->Logits(*stream_, device_rows, MakeMatrix<float>(logits_.data(), n, V));
    TF_RETURN_IF_ERROR(stream_->Synchronize());
    for (size_t i = 0; i < n; ++i) {
      const Wanted& w = wanted[begin + i];
      const absl::Span<const float> logits(logits_.as<float>() + i * V, V);
      TakeLogits(*mine[w.entry], w.token, logits, results[w.entry]);
    }
  }
  return stream_->Synchronize();
}

// A sequence ends where a router could not send its token anywhere. The others go on: no row has met a row of it.
absl::Status Engine::RefuseBadTokens(int64_t step, const StepTokens& tokens, const std::vector<const StepEntry*>& mine,
                                     std::vector<EntryResult>& results) {
  TF_ASSIGN_OR_RETURN(const std::vector<uint8_t> bad, transformer_->TakeBadTokens(*stream_, tokens));
  auto begin = bad.begin();
  for (size_t i = 0; i < mine.size(); ++i) {
    const auto end = begin + static_cast<ptrdiff_t>(mine[i]->tokens.size());
    const auto first = std::find(begin, end, 1);
    if (first != end) {
      results[i] = {.seq = mine[i]->seq,
                    .error = absl::InternalError(absl::StrCat(
                        "rank ", transport_.rank().value, ": ", ToString(CallSite{"route", -1, step}),
                        ": the router's scores of the token at position ", mine[i]->position + (first - begin),
                        " are NaN: the checkpoint's weights are broken, or those of an earlier layer"))};
    }
    begin = end;
  }
  return absl::OkStatus();
}

void Engine::TakeLogits(const StepEntry& entry, int64_t token, absl::Span<const float> logits, EntryResult& result) {
  if (!result.error.ok()) return;
  const absl::Status taken = TryTakeLogits(entry, token, logits, result);
  if (!taken.ok()) result = {.seq = result.seq, .error = taken};  // an answer with an error has nothing else
}

absl::Status Engine::TryTakeLogits(const StepEntry& entry, int64_t token, absl::Span<const float> logits,
                                   EntryResult& result) {
  const SequenceTable::Sequence& s = sequences_->at(entry.seq);
  const int64_t position = entry.position + token + 1;  // of the token that the logits are for
  const bool is_scored = token < static_cast<int64_t>(entry.targets.size());
  if (is_scored || entry.want == Want::kLogits) {
    TF_ASSIGN_OR_RETURN(const double log_sum_exp, sampler_.LogSumExp(logits, position));
    if (is_scored) {
      result.logprobs.push_back(static_cast<double>(logits[entry.targets[token]]) - log_sum_exp);
      const auto top = Likeliest(logits, s.sampling.num_top_logprobs, log_sum_exp);
      result.top_logprobs.insert(result.top_logprobs.end(), top.begin(), top.end());
    }
  }
  if (entry.want == Want::kLogits) result.logits.insert(result.logits.end(), logits.begin(), logits.end());
  if (entry.want != Want::kToken || token + 1 < static_cast<int64_t>(entry.tokens.size())) return absl::OkStatus();
  SamplingState state{.counts = UsesCounts(s.sampling) ? &s.counts : nullptr,
                      .position = position,
                      .num_generated = position - s.num_prompt_tokens};
  if (s.grammar != nullptr) {
    TF_ASSIGN_OR_RETURN(state.allowed, s.grammar->Allowed(s.sampling.stop_token_ids));
  }
  TF_ASSIGN_OR_RETURN(result.sampled, sampler_.Sample(logits, s.sampling, state));
  return absl::OkStatus();
}

}  // namespace tokenferry

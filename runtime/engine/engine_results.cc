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
  std::vector<LogitRows::Row> wanted;
  std::vector<int32_t> rows;
  std::vector<size_t> entries;  // of each
  int32_t row = 0;
  for (size_t i = 0; i < mine.size(); ++i) {
    results[i].seq = mine[i]->seq;
    const int64_t n = static_cast<int64_t>(mine[i]->tokens.size());
    const bool only_last = mine[i]->want == Want::kToken && mine[i]->targets.empty();
    const bool has_none = mine[i]->want == Want::kNothing || mine[i]->stack == Stack::kEncoder;
    const int64_t first = has_none ? n : only_last ? n - 1 : 0;
    for (int64_t t = first; t < n; ++t) {
      wanted.push_back({mine[i], &sequences_->at(mine[i]->seq), t});
      rows.push_back(row + static_cast<int32_t>(t));
      entries.push_back(i);
    }
    row += static_cast<int32_t>(n);
  }
  int32_t* const device_rows = inputs_.as<int32_t>() + 3 * max_tokens();
  for (size_t begin = 0; begin < wanted.size(); begin += Transformer::kLogitRows) {
    const size_t n = std::min<size_t>(Transformer::kLogitRows, wanted.size() - begin);
    stream_->CopyToDevice(device_rows, rows.data() + begin, n * sizeof(int32_t));
    const auto slice = absl::MakeSpan(wanted).subspan(begin, n);
    logits_->Want(*stream_, {slice.begin(), slice.end()});
    transformer_->Logits(*stream_, device_rows, logits_->Rows(0, static_cast<int64_t>(n)));
    logits_->Scan(*stream_, 0, static_cast<int64_t>(n));
    logits_->Fetch(*stream_);
    TF_RETURN_IF_ERROR(stream_->Synchronize());
    for (size_t i = 0; i < n; ++i) logits_->Take(static_cast<int64_t>(i), results[entries[begin + i]]);
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

}  // namespace tokenferry

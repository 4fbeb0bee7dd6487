#include "runtime/engine/prefill_budget.h"

#include <algorithm>

#include "runtime/attention/attention_ops.h"

namespace tokenferry {

PrefillBudget::PrefillBudget(int64_t max_tokens, absl::Duration step_target)
    : max_tokens_(max_tokens),
      target_(step_target),
      tokens_(step_target == absl::InfiniteDuration() ? max_tokens : std::min(max_tokens, kCacheBlockTokens)) {}

// With a step of a + c n for n tokens, repeating n := target / ((a + c n) / n) leads to a + c n = target from any
// start.
void PrefillBudget::Observe(int64_t num_tokens, int64_t num_decode, absl::Duration took) {
  const int64_t num_prefill = num_tokens - num_decode;
  // A step that was far below the budget, for lack of prompts, says nothing about one that uses it up.
  if (target_ == absl::InfiniteDuration() || num_prefill < tokens_ / 2 || took <= absl::ZeroDuration()) return;
  const double fits =
      absl::FDivDuration(target_, took) * static_cast<double>(num_tokens) - static_cast<double>(num_decode);
  // At most doubled, so that one step that was short by chance does not make the next one very long.
  const double next = std::min(fits, 2.0 * static_cast<double>(tokens_));
  tokens_ = std::clamp(static_cast<int64_t>(next), std::min(max_tokens_, kCacheBlockTokens), max_tokens_);
}

}  // namespace tokenferry

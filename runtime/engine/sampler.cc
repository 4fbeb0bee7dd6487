#include "runtime/engine/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "absl/strings/str_format.h"

namespace tokenferry {
namespace {

struct Candidate {
  int32_t token;
  double value;  // logit, then probability
};

// Each token once, however often it occurs.
std::vector<int32_t> Distinct(absl::Span<const int32_t> tokens) {
  std::vector<int32_t> sorted(tokens.begin(), tokens.end());
  std::sort(sorted.begin(), sorted.end());
  sorted.erase(std::unique(sorted.begin(), sorted.end()), sorted.end());
  return sorted;
}

void Penalise(const SamplingParams& params, const TokenHistory& history, std::vector<double>& logits) {
  const int64_t size = static_cast<int64_t>(logits.size());
  if (params.repetition_penalty != 1) {
    for (int32_t token : Distinct(history.tokens)) {
      if (token < 0 || token >= size) continue;
      double& logit = logits[token];
      logit = logit > 0 ? logit / params.repetition_penalty : logit * params.repetition_penalty;
    }
  }
  if (params.presence_penalty != 0) {
    for (int32_t token : Distinct(absl::MakeSpan(history.tokens).subspan(history.num_prompt_tokens))) {
      if (token >= 0 && token < size) logits[token] -= params.presence_penalty;
    }
  }
}

// Candidates by falling logit (ties to the lower id), cut by top-k, as probabilities cut by top-p and min-p.
std::vector<Candidate> Shortlist(const SamplingParams& params, const std::vector<double>& logits) {
  std::vector<Candidate> all(logits.size());
  // The largest is subtracted before the division: no temperature turns a finite logit into +infinity, or two equal
  // ones into infinity minus infinity.
  const double largest = *std::max_element(logits.begin(), logits.end());
  for (size_t i = 0; i < logits.size(); ++i) {
    all[i] = {static_cast<int32_t>(i), (logits[i] - largest) / params.temperature};
  }
  const auto before = [](const Candidate& a, const Candidate& b) {
    return a.value != b.value ? a.value > b.value : a.token < b.token;
  };
  if (params.top_k > 0 && params.top_k < static_cast<int64_t>(all.size())) {
    std::partial_sort(all.begin(), all.begin() + params.top_k, all.end(), before);
    all.resize(params.top_k);
  } else {
    std::sort(all.begin(), all.end(), before);
  }
  double sum = 0;
  for (Candidate& c : all) sum += c.value = std::exp(c.value);
  for (Candidate& c : all) c.value /= sum;
  size_t keep = all.size();
  if (params.top_p < 1) {
    double mass = 0;
    for (keep = 0; keep < all.size() && mass < params.top_p; ++keep) mass += all[keep].value;
  }
  // top-p renormalises nothing that min-p sees: both compare ratios to the likeliest token.
  while (keep > 1 && all[keep - 1].value < params.min_p * all[0].value) --keep;
  all.resize(std::max<size_t>(keep, 1));
  return all;
}

int32_t Draw(const std::vector<Candidate>& candidates, double uniform) {
  double sum = 0;
  for (const Candidate& c : candidates) sum += c.value;
  double left = uniform * sum;
  for (const Candidate& c : candidates) {
    left -= c.value;
    if (left < 0) return c.token;
  }
  return candidates.back().token;
}

absl::Status RangeError(absl::string_view name, double value, absl::string_view range) {
  return absl::InvalidArgumentError(absl::StrFormat("%s is %g, but must be %s", name, value, range));
}

}  // namespace

absl::Status Validate(const SamplingParams& p) {
  // Written as !(in range), so that NaN is refused; and a denormal number is in no range but as 0.
  const auto within = [](double v, double low, double high) {
    return v >= low && v <= high && (v == 0 || std::isnormal(v));
  };
  if (p.temperature != 0 && !within(p.temperature, kMinTemperature, kMaxTemperature)) {
    return RangeError("temperature", p.temperature,
                      absl::StrCat("0, or from ", kMinTemperature, " to ", kMaxTemperature));
  }
  if (p.top_k < 0) return RangeError("top-k", p.top_k, "0 (all tokens) or more");
  if (!within(p.top_p, kMinTopP, 1)) return RangeError("top-p", p.top_p, absl::StrCat("from ", kMinTopP, " to 1"));
  if (!within(p.min_p, 0, 1)) return RangeError("min-p", p.min_p, "from 0 to 1");
  if (!within(p.repetition_penalty, kMinRepetitionPenalty, kMaxRepetitionPenalty)) {
    return RangeError("repetition-penalty", p.repetition_penalty,
                      absl::StrCat("from ", kMinRepetitionPenalty, " to ", kMaxRepetitionPenalty));
  }
  if (!within(p.presence_penalty, -kMaxPresencePenalty, kMaxPresencePenalty)) {
    return RangeError("presence-penalty", p.presence_penalty,
                      absl::StrCat("from ", -kMaxPresencePenalty, " to ", kMaxPresencePenalty));
  }
  return absl::OkStatus();
}

std::vector<std::string> UnusedParams(const SamplingParams& p) {
  std::vector<std::string> names;
  if (p.temperature != 0) return names;
  const SamplingParams defaults;
  if (p.top_p != defaults.top_p) names.emplace_back("top-p");
  if (p.top_k != defaults.top_k) names.emplace_back("top-k");
  if (p.min_p != defaults.min_p) names.emplace_back("min-p");
  if (p.seed != defaults.seed) names.emplace_back("seed");
  return names;
}

double CounterUniform(uint64_t seed, uint64_t counter) {
  uint64_t z = seed;
  for (uint64_t word : {uint64_t{0x9E3779B97F4A7C15ull}, counter}) {
    z += word;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
    z ^= z >> 31;
  }
  return static_cast<double>(z >> 11) * 0x1p-53;
}

double LogSumExp(absl::Span<const float> logits) {
  const double top = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (float logit : logits) sum += std::exp(static_cast<double>(logit) - top);
  return top + std::log(sum);
}

absl::StatusOr<SampledToken> Sample(absl::Span<const float> logits, const SamplingParams& params,
                                    const TokenHistory& history, int64_t position) {
  for (size_t i = 0; i < logits.size(); ++i) {
    const bool is_nan = std::isnan(logits[i]);
    if (is_nan || (std::isinf(logits[i]) && logits[i] > 0)) {
      const char* const what = is_nan ? "NaN" : "infinite";
      return absl::InternalError(absl::StrCat("logit of token ", i, " at position ", position, " is ", what));
    }
  }
  if (std::isinf(*std::max_element(logits.begin(), logits.end()))) {
    return absl::InternalError(absl::StrCat("all logits at position ", position, " are -infinity"));
  }
  std::vector<double> scores(logits.begin(), logits.end());
  Penalise(params, history, scores);
  SampledToken chosen;
  if (params.temperature == 0) {
    chosen.token = static_cast<int32_t>(std::max_element(scores.begin(), scores.end()) - scores.begin());
  } else {
    chosen.token = Draw(Shortlist(params, scores), CounterUniform(params.seed, static_cast<uint64_t>(position)));
  }
  chosen.logprob = static_cast<float>(logits[chosen.token] - LogSumExp(logits));
  return chosen;
}

}  // namespace tokenferry

#include "runtime/engine/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/check.h"
#include "core/keyed_hash.h"

namespace tokenferry {
namespace {

constexpr double kNever = -std::numeric_limits<double>::infinity();

void Penalise(const SamplingParams& params, const TokenCounts& counts, absl::Span<double> scores) {
  for (const auto& [token, num_in_output] : counts.num_in_output()) {
    if (token < 0 || token >= static_cast<int64_t>(scores.size())) continue;
    double& score = scores[token];
    score = score > 0 ? score / params.repetition_penalty : score * params.repetition_penalty;
    if (num_in_output == 0) continue;
    score -= params.presence_penalty;
    score -= params.frequency_penalty * num_in_output;
  }
}

// All tokens whose bits are not set; a word at a time, since most masks have most words full or empty.
void Exclude(absl::Span<const uint64_t> allowed, absl::Span<double> scores) {
  for (size_t begin = 0; begin < scores.size(); begin += 64) {
    const uint64_t word = begin / 64 < allowed.size() ? allowed[begin / 64] : 0;
    const size_t end = std::min(begin + 64, scores.size());
    if (word == 0) {
      std::fill(scores.begin() + static_cast<ptrdiff_t>(begin), scores.begin() + static_cast<ptrdiff_t>(end), kNever);
    }
    for (size_t i = begin; word != 0 && ~word != 0 && i < end; ++i) {
      if ((word >> (i - begin) & 1) == 0) scores[i] = kNever;
    }
  }
}

absl::Status BadLogit(int64_t token, int64_t position, double logit) {
  return absl::InternalError(absl::StrCat("logit of token ", token, " at position ", position, " is ",
                                          std::isnan(logit) ? "NaN" : "infinite"));
}

absl::Status AllRuledOut(int64_t position) {
  return absl::InternalError(absl::StrCat("all logits at position ", position, " are -infinity"));
}

bool MustGoOn(const SamplingParams& params, const SamplingState& state) {
  return state.num_generated < params.min_tokens;
}

// Whether Adjust makes other scores of the logits.
bool IsAdjusted(const SamplingParams& params, const SamplingState& state) {
  return !state.allowed.empty() || MustGoOn(params, state) || !params.logit_bias.empty() || state.counts != nullptr;
}

}  // namespace

Sampler::Sampler() : kernels_(SamplerKernelsFor(BestIsa(SupportedIsas()))) {}

absl::Status Sampler::Widen(absl::Span<const float> logits, int64_t position) {
  const auto size = static_cast<int64_t>(logits.size());
  scores_.resize(size);
  relative_.resize(size);
  const LogitScan scan = kernels_.widen(logits.data(), size, scores_.data());
  for (int64_t i = 0; !scan.all_below_infinity && i < size; ++i) {
    if (scores_[i] < -kNever) continue;
    return BadLogit(i, position, scores_[i]);
  }
  if (scan.largest == kNever) return AllRuledOut(position);
  largest_ = scan.largest;
  return absl::OkStatus();
}

void Sampler::Adjust(const SamplingParams& params, const SamplingState& state) {
  const auto size = static_cast<int64_t>(scores_.size());
  const auto in_vocabulary = [size](int32_t token) { return token >= 0 && token < size; };
  if (!state.allowed.empty()) Exclude(state.allowed, absl::MakeSpan(scores_));
  for (const int32_t token : params.stop_token_ids) {
    if (MustGoOn(params, state) && in_vocabulary(token)) scores_[token] = kNever;
  }
  for (const LogitBias& b : params.logit_bias) {
    if (in_vocabulary(b.token)) scores_[b.token] += b.bias;
  }
  if (state.counts != nullptr) Penalise(params, *state.counts, absl::MakeSpan(scores_));
}

int32_t Sampler::Draw(const SamplingParams& params, double uniform) {
  order_.Assign(scores_, relative_);
  const auto share = [](double part, uint64_t whole) {
    return std::clamp<uint64_t>(static_cast<uint64_t>(std::ceil(part * static_cast<double>(whole))), 1, whole);
  };
  uint64_t kept = order_.total();
  if (params.top_k > 0) kept = order_.AtCount(params.top_k).weight;
  if (params.top_p < 1) kept = order_.AtWeight(share(params.top_p, kept)).weight;
  if (params.min_p > 0) {
    // Compares with the likeliest token, so that it does not matter what top-k and top-p have dropped.
    kept = std::min(kept, order_.WeightOfThoseFrom(share(params.min_p, TokenOrder::Weight(1))));
  }
  const auto drawn = static_cast<uint64_t>(uniform * static_cast<double>(kept)) + 1;
  return order_.AtWeight(std::min(drawn, kept)).token;
}

absl::StatusOr<double> Sampler::LogSumExp(absl::Span<const float> logits, int64_t position) {
  TF_RETURN_IF_ERROR(Widen(logits, position));
  kernels_.exp_scores(scores_.data(), static_cast<int64_t>(logits.size()), largest_, 1, relative_.data());
  return largest_ + std::log(SumInChains(relative_));
}

double Sampler::Divergence(absl::Span<const float> logits, double log_sum_exp, absl::Span<const float> other,
                           double other_log_sum_exp) {
  TF_CHECK_EQ(other.size(), logits.size());
  const auto size = static_cast<int64_t>(logits.size());
  scores_.resize(logits.size());
  relative_.resize(logits.size());
  kernels_.widen(logits.data(), size, scores_.data());
  // No logit exceeds the logarithm of a sum that has it.
  kernels_.exp_scores(scores_.data(), size, log_sum_exp, 1, relative_.data());
  for (int64_t i = 0; i < size; ++i) {
    const double p = relative_[i];
    relative_[i] = p > 0 ? p * (scores_[i] - static_cast<double>(other[i])) : 0;
  }
  return std::max(SumInChains(relative_) - (log_sum_exp - other_log_sum_exp), 0.0);
}

absl::StatusOr<SampledToken> Sampler::Sample(absl::Span<const float> logits, const SamplingParams& params,
                                             const SamplingState& state) {
  TF_ASSIGN_OR_RETURN(const double log_sum, LogSumExp(logits, state.position));
  const auto size = static_cast<int64_t>(logits.size());
  double largest = largest_;
  const bool adjusted = IsAdjusted(params, state);
  if (adjusted) {
    Adjust(params, state);
    largest = kernels_.largest(scores_.data(), size);
    if (largest == kNever) {
      return absl::FailedPreconditionError(
          absl::StrCat("no token may come at position ", state.position, ": every one is ruled out"));
    }
  }
  SampledToken chosen;
  if (params.temperature == 0) {
    chosen.token = static_cast<int32_t>(std::find(scores_.begin(), scores_.end(), largest) - scores_.begin());
  } else {
    // The largest is subtracted before the division: no temperature turns a finite logit into +infinity, or two equal
    // ones into infinity minus infinity.
    if (adjusted || params.temperature != 1) {  // else relative_ has them
      kernels_.exp_scores(scores_.data(), size, largest, params.temperature, relative_.data());
    }
    chosen.token = Draw(params, CounterUniform(params.seed, static_cast<uint64_t>(state.position)));
  }
  chosen.logprob = static_cast<float>(logits[chosen.token] - log_sum);
  chosen.top = Likeliest(logits, params.num_top_logprobs, log_sum);
  return chosen;
}

int Sampler::NumCandidates(const SamplingParams& params, const SamplingState& state) {
  if (IsAdjusted(params, state)) return 0;
  const int num_chosen_among = params.temperature == 0 ? 1 : params.top_k;
  if (num_chosen_among == 0 || num_chosen_among > kMaxLogitCandidates) return 0;
  return std::max(num_chosen_among, params.num_top_logprobs);
}

absl::StatusOr<SampledToken> Sampler::Sample(const LogitSummary& summary, const SamplingParams& params,
                                             const SamplingState& state) {
  if (summary.bad_token >= 0) return BadLogit(summary.bad_token, state.position, summary.largest);
  if (summary.largest == static_cast<float>(kNever)) return AllRuledOut(state.position);
  const double log_sum = summary.largest + std::log(summary.sum_exp);
  std::vector<LogitCandidate> candidates(summary.candidates, summary.candidates + summary.num_candidates);
  const int num_top = std::min(params.num_top_logprobs, summary.num_candidates);
  SampledToken chosen;
  for (const LogitCandidate& c : absl::MakeConstSpan(candidates).first(num_top)) {
    chosen.top.push_back({c.token, static_cast<float>(c.logit - log_sum)});
  }
  LogitCandidate taken = candidates.front();
  if (params.temperature != 0) {
    // The tokens that top-k leaves, as a vocabulary of their own: in its order, equal ones are where they were.
    candidates.resize(std::min<size_t>(params.top_k, candidates.size()));
    std::sort(candidates.begin(), candidates.end(), [](const auto& a, const auto& b) { return a.token < b.token; });
    scores_.clear();
    for (const LogitCandidate& c : candidates) scores_.push_back(c.logit);
    relative_.resize(scores_.size());
    kernels_.exp_scores(scores_.data(), static_cast<int64_t>(scores_.size()), summary.largest, params.temperature,
                        relative_.data());
    taken = candidates[Draw(params, CounterUniform(params.seed, static_cast<uint64_t>(state.position)))];
  }
  chosen.token = taken.token;
  chosen.logprob = static_cast<float>(taken.logit - log_sum);
  return chosen;
}

double CounterUniform(uint64_t seed, uint64_t counter) {
  uint64_t z = seed;
  for (uint64_t word : {uint64_t{0x9E3779B97F4A7C15ull}, counter}) {
    z = MixBits(z + word);
  }
  return static_cast<double>(z >> 11) * 0x1p-53;
}

std::vector<TokenLogprob> Likeliest(absl::Span<const float> logits, int count, double log_sum_exp) {
  std::vector<TokenLogprob> top;  // with logits for the time being
  count = std::min(count, static_cast<int>(logits.size()));
  if (count == 0) return top;
  for (size_t i = 0; i < logits.size(); ++i) {
    if (static_cast<int>(top.size()) == count) {
      if (!(logits[i] > top.back().logprob)) continue;
      top.pop_back();
    }
    const auto at = std::find_if(top.begin(), top.end(), [&](const auto& t) { return logits[i] > t.logprob; });
    top.insert(at, {static_cast<int32_t>(i), logits[i]});
  }
  for (TokenLogprob& t : top) t.logprob = static_cast<float>(t.logprob - log_sum_exp);
  return top;
}

}  // namespace tokenferry

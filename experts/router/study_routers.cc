#include "experts/router/study_routers.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <numeric>
#include <queue>
#include <tuple>

#include "core/check.h"
#include "core/kernels/row_parallel.h"
#include "core/keyed_hash.h"
#include "experts/router/router_scores.h"

namespace tokenferry {
namespace {

uint64_t Mix(uint64_t x) { return MixBits(x + 0x9E3779B97F4A7C15u); }

// In (0, 1): the middles of 2^53 equal parts.
double Uniform(uint64_t bits) { return (static_cast<double>(bits >> 11) + 0.5) * 0x1p-53; }

// Standard normal, by Box and Muller.
double NormalOf(uint64_t seed, int64_t token, int64_t expert) {
  const uint64_t key = Mix(Mix(seed ^ Mix(static_cast<uint64_t>(token))) ^ static_cast<uint64_t>(expert));
  return std::sqrt(-2 * std::log(Uniform(key))) * std::cos(2 * std::numbers::pi * Uniform(Mix(key)));
}

double Softplus(double x) { return std::max(x, 0.0) + std::log1p(std::exp(-std::abs(x))); }

void AddNoiseRow(const AddGateNoiseArgs& a, int64_t t) {
  float* logits = a.logits.row(t);
  const float* noise = a.noise_logits.row(t);
  for (int64_t e = 0; e < a.logits.cols; ++e) {
    logits[e] = static_cast<float>(logits[e] + NormalOf(a.seed, a.first_token + t, e) * Softplus(noise[e]));
  }
}

void HashRow(const HashRouteArgs& a, int64_t t) {
  *a.out.expert_idx.row(t) = a.table[a.ids[t]];
  *a.out.weight.row(t) = 1.0f;
}

// The scores of a token, NaN for all experts where one is.
void ScoreRow(const ExpertChoiceArgs& a, int64_t t, ScoreFn score, float* scores) {
  const int64_t num_experts = a.logits.cols;
  const float* logits = a.logits.row(t);
  const auto is_nan = [](float v) { return std::isnan(v); };
  const bool is_bad = std::any_of(logits, logits + num_experts, is_nan);
  if (!is_bad) score(Scoring::kSoftmax, logits, num_experts, scores);
  if (!is_bad && std::none_of(scores, scores + num_experts, is_nan)) return;
  std::fill(scores, scores + num_experts, std::nanf(""));
  a.bad_tokens[t] = 1;
}

// The tokens that an expert takes, in increasing order. `scores` [T, E].
std::vector<int64_t> TokensOf(const ExpertChoiceArgs& a, int64_t expert, const std::vector<float>& scores) {
  std::vector<int64_t> tokens;
  const auto score = [&](int64_t t) { return scores[t * a.logits.cols + expert]; };
  for (int64_t t = 0; t < a.logits.rows; ++t) {
    if (!std::isnan(score(t))) tokens.push_back(t);
  }
  const auto num_taken = std::min(static_cast<int64_t>(tokens.size()), a.capacity);
  const auto middle = tokens.begin() + num_taken;
  std::partial_sort(tokens.begin(), middle, tokens.end(),
                    [&](int64_t l, int64_t r) { return score(l) != score(r) ? score(l) > score(r) : l < r; });
  tokens.erase(middle, tokens.end());
  std::sort(tokens.begin(), tokens.end());
  return tokens;
}

// `taken` by expert.
void WriteChoice(const ExpertChoiceArgs& a, const std::vector<std::vector<int64_t>>& taken,
                 const std::vector<float>& scores) {
  const int64_t num_experts = a.logits.cols;
  std::vector<int64_t> count(a.logits.rows);
  for (int64_t t = 0; t < a.logits.rows; ++t) {
    std::fill_n(a.out.expert_idx.row(t), num_experts, -1);
    std::fill_n(a.out.weight.row(t), num_experts, 0.0f);
  }
  for (int64_t e = 0; e < num_experts; ++e) {
    for (const int64_t t : taken[e]) {
      a.out.expert_idx.row(t)[count[t]] = static_cast<int32_t>(e);
      a.out.weight.row(t)[count[t]++] = scores[t * num_experts + e];
    }
  }
}

void ExpertChoiceReference(const ExpertChoiceArgs& a) {
  const int64_t num_experts = a.logits.cols;
  std::vector<float> scores(a.logits.rows * num_experts);
  for (int64_t t = 0; t < a.logits.rows; ++t) ScoreRow(a, t, PlainScores, scores.data() + t * num_experts);
  std::vector<std::vector<int64_t>> taken;
  for (int64_t e = 0; e < num_experts; ++e) taken.push_back(TokensOf(a, e, scores));
  WriteChoice(a, taken, scores);
}

void ExpertChoiceCpu(const ExpertChoiceArgs& a, CpuContext& context) {
  const int64_t num_experts = a.logits.cols;
  const ScoreFn score = ScoresFor(context.isa);
  std::vector<float> scores(a.logits.rows * num_experts);
  ParallelRows(context, a.logits.rows, num_experts, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) ScoreRow(a, t, score, scores.data() + t * num_experts);
  });
  std::vector<std::vector<int64_t>> taken(num_experts);
  context.pool.ParallelFor(num_experts, [&](int64_t e, int) { taken[e] = TokensOf(a, e, scores); });
  WriteChoice(a, taken, scores);
}

void AddGateNoiseReference(const AddGateNoiseArgs& a) {
  for (int64_t t = 0; t < a.logits.rows; ++t) AddNoiseRow(a, t);
}

void AddGateNoiseCpu(const AddGateNoiseArgs& a, CpuContext& context) {
  ParallelRows(context, a.logits.rows, a.logits.cols, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) AddNoiseRow(a, t);
  });
}

void HashRouteReference(const HashRouteArgs& a) {
  for (int64_t t = 0; t < a.out.expert_idx.rows; ++t) HashRow(a, t);
}

constexpr Op<AddGateNoiseArgs> kAddGateNoise{"add_gate_noise", AddGateNoiseReference, AddGateNoiseCpu};
constexpr Op<ExpertChoiceArgs> kExpertChoice{"expert_choice", ExpertChoiceReference, ExpertChoiceCpu};
constexpr Op<HashRouteArgs> kHashRoute{"hash_route", HashRouteReference, nullptr};

}  // namespace

void AddGateNoise(Stream& stream, const AddGateNoiseArgs& args) {
  TF_CHECK_EQ(args.noise_logits.rows, args.logits.rows);
  TF_CHECK_EQ(args.noise_logits.cols, args.logits.cols);
  stream.Launch(kAddGateNoise, args);
}

void ExpertChoice(Stream& stream, const ExpertChoiceArgs& args) {
  TF_CHECK(args.bad_tokens != nullptr || args.logits.rows == 0);
  TF_CHECK_GE(args.capacity, 0);
  TF_CHECK_EQ(args.out.expert_idx.rows, args.logits.rows);
  TF_CHECK_EQ(args.out.expert_idx.cols, args.logits.cols);
  TF_CHECK_EQ(args.out.weight.cols, args.logits.cols);
  stream.Launch(kExpertChoice, args);
}

int64_t ExpertChoiceCapacity(int64_t num_tokens, int32_t top_k, int64_t num_experts) {
  TF_CHECK_GT(num_experts, 0);
  return (num_tokens * top_k + num_experts - 1) / num_experts;
}

void HashRoute(Stream& stream, const HashRouteArgs& args) {
  TF_CHECK_EQ(args.out.expert_idx.cols, 1);
  TF_CHECK_EQ(args.out.weight.cols, 1);
  TF_CHECK_EQ(args.out.weight.rows, args.out.expert_idx.rows);
  stream.Launch(kHashRoute, args);
}

std::vector<int32_t> BalancedHashTable(absl::Span<const int64_t> count_per_id, int num_experts) {
  TF_CHECK_GE(num_experts, 1);
  std::vector<int32_t> order(count_per_id.size()), table(count_per_id.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int32_t l, int32_t r) { return count_per_id[l] > count_per_id[r]; });
  using Load = std::tuple<int64_t, int64_t, int32_t>;  // sum of counts, ids, expert
  std::priority_queue<Load, std::vector<Load>, std::greater<>> loads;
  for (int32_t e = 0; e < num_experts; ++e) loads.push({0, 0, e});
  for (const int32_t id : order) {
    const auto [sum, num_ids, expert] = loads.top();
    loads.pop();
    table[id] = expert;
    loads.push({sum + count_per_id[id], num_ids + 1, expert});
  }
  return table;
}

}  // namespace tokenferry

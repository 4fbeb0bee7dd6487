#include "launch/commands/eval_comparison.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "core/check.h"

namespace tokenferry {
namespace {

// ln of the sum of exp(logits).
double LogSum(const float* logits, int64_t size) {
  const double most = *std::max_element(logits, logits + size);
  double sum = 0;
  for (int64_t i = 0; i < size; ++i) sum += std::exp(logits[i] - most);
  return most + std::log(sum);
}

// Kullback-Leibler divergence of q from p, in nats: what is lost by coding p's tokens with q. Never below 0, but for
// rounding.
double Divergence(const float* p, const float* q, int64_t size) {
  const double p_sum = LogSum(p, size), q_sum = LogSum(q, size);
  double divergence = 0;
  for (int64_t i = 0; i < size; ++i) {
    const double log_p = p[i] - p_sum;
    divergence += std::exp(log_p) * (log_p - (q[i] - q_sum));
  }
  return std::max(divergence, 0.0);
}

}  // namespace

absl::Status EvalComparison::Comparable(const ModelSpec& reference, const ModelSpec& model) {
  if (model.vocab_size == reference.vocab_size) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("--compare-to: that model has a vocabulary of ", reference.vocab_size,
                                                 ", this one of ", model.vocab_size));
}

EvalComparison::EvalComparison(const ModelSpec& reference, const ModelSpec& model)
    : reference_(reference),
      has_flips_(model.num_moe_layers() == reference.num_moe_layers() &&
                 model.moe.num_experts == reference.moe.num_experts &&
                 model.moe.router.top_k == reference.moe.router.top_k) {
  if (has_flips_) flips_.assign(static_cast<size_t>(model.num_moe_layers()), 0);
}

void EvalComparison::TakeReference(const SequenceUpdate& u) {
  const auto seq = static_cast<size_t>(u.seq);
  if (sequences_.size() <= seq) sequences_.resize(seq + 1);
  Sequence& s = sequences_[seq];
  s.expert_idx.resize(static_cast<size_t>(reference_.num_moe_layers()));
  const EntryResult& r = u.result;
  for (const double logprob : r.logprobs) reference_nll_ -= logprob;
  num_scored_ += static_cast<int64_t>(r.logprobs.size());
  // Pieces of a prompt come in order.
  TF_CHECK_EQ(static_cast<int64_t>(s.logits.size()), u.position * reference_.vocab_size);
  s.logits.insert(s.logits.end(), r.logits.begin(), r.logits.end());
  const size_t row =
      r.logits.size() / static_cast<size_t>(reference_.vocab_size) * static_cast<size_t>(reference_.moe.router.top_k);
  for (size_t l = 0; l < s.expert_idx.size(); ++l) {
    const auto begin = r.expert_idx.begin() + static_cast<std::ptrdiff_t>(l * row);
    s.expert_idx[l].insert(s.expert_idx[l].end(), begin, begin + static_cast<std::ptrdiff_t>(row));
  }
}

void EvalComparison::Take(const SequenceUpdate& u) {
  const Sequence& s = sequences_[static_cast<size_t>(u.seq)];
  const int64_t V = reference_.vocab_size, K = reference_.moe.router.top_k;
  const int64_t n = static_cast<int64_t>(u.result.logits.size()) / V;
  TF_CHECK_LE((u.position + n) * V, static_cast<int64_t>(s.logits.size()));
  num_tokens_ += n;
  for (int64_t t = 0; t < n; ++t) {
    const double divergence = Divergence(&s.logits[(u.position + t) * V], &u.result.logits[t * V], V);
    kl_sum_ += divergence;
    kl_most_ = std::max(kl_most_, divergence);
    for (size_t l = 0; l < flips_.size(); ++l) {
      const int32_t* before = &s.expert_idx[l][(u.position + t) * K];
      const int32_t* now = &u.result.expert_idx[(static_cast<int64_t>(l) * n + t) * K];
      for (int64_t k = 0; k < K; ++k) flips_[l] += std::find(before, before + K, now[k]) == before + K ? 1 : 0;
    }
  }
}

void EvalComparison::Print() const {
  std::printf("\nKL divergence from the other run, in nats per token: %.6f, at most %.6f\n",
              kl_sum_ / static_cast<double>(num_tokens_), kl_most_);
  if (!has_flips_) {
    std::printf("the two models route differently: choices of experts are not compared\n");
    return;
  }
  std::printf("choices of experts that the other run had not made, by MoE layer\n");
  for (size_t l = 0; l < flips_.size(); ++l) {
    const double choices = static_cast<double>(num_tokens_ * reference_.moe.router.top_k);
    std::printf("%-8zu %8.3f %%\n", l, 100 * static_cast<double>(flips_[l]) / choices);
  }
}

nlohmann::ordered_json EvalComparison::Json() const {
  nlohmann::ordered_json json = {
      {"perplexity", num_scored_ > 0 ? std::exp(reference_nll_ / static_cast<double>(num_scored_)) : std::nan("")},
      {"kl_per_token", kl_sum_ / static_cast<double>(num_tokens_)},
      {"kl_most", kl_most_},
      {"choices_per_layer", num_tokens_ * reference_.moe.router.top_k}};
  json["flips_by_layer"] = has_flips_ ? nlohmann::ordered_json(flips_) : nlohmann::ordered_json();
  return json;
}

}  // namespace tokenferry

#include "launch/commands/eval_comparison.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "absl/algorithm/container.h"
#include "absl/strings/str_cat.h"
#include "core/check.h"
#include "launch/session/memory_check.h"

namespace tokenferry {
namespace {

// What is kept of a token of the first run.
int64_t KeptBytesPerToken(const ModelSpec& reference) {
  const int64_t routing =
      reference.num_moe_layers(Stack::kDecoder) * reference.moe.router.top_k * int64_t{sizeof(int32_t)};
  return reference.vocab_size * int64_t{sizeof(float)} + int64_t{sizeof(double)} + routing;
}

}  // namespace

absl::Status EvalComparison::Comparable(const ModelSpec& reference, const ModelSpec& model) {
  if (model.has_encoder() != reference.has_encoder()) {
    return absl::InvalidArgumentError("--compare-to: one of the models has an encoder, and the other has none");
  }
  if (model.vocab_size == reference.vocab_size) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("--compare-to: that model has a vocabulary of ", reference.vocab_size,
                                                 ", this one of ", model.vocab_size));
}

absl::Status EvalComparison::FitsMemory(const ModelSpec& reference, absl::Span<const int64_t> prompt_tokens,
                                        int64_t available_bytes) {
  const int64_t num_tokens = absl::c_accumulate(prompt_tokens, int64_t{0});
  const int64_t num_bytes = num_tokens * KeptBytesPerToken(reference);
  if (num_bytes <= available_bytes) return absl::OkStatus();
  return absl::ResourceExhaustedError(absl::StrCat(
      "--compare-to: rank 0 keeps the logits of ", num_tokens, " tokens for a vocabulary of ", reference.vocab_size,
      ", which takes ", FormatBytes(num_bytes), ", and ", FormatBytes(available_bytes),
      " of its host's memory are available: give fewer prompts, and the others in another run"));
}

EvalComparison::EvalComparison(const ModelSpec& reference, const ModelSpec& model,
                               absl::Span<const int64_t> prompt_tokens)
    : reference_(reference),
      has_flips_(model.num_moe_layers(Stack::kDecoder) == reference.num_moe_layers(Stack::kDecoder) &&
                 model.moe.num_experts == reference.moe.num_experts &&
                 model.moe.router.top_k == reference.moe.router.top_k),
      sequences_(prompt_tokens.size()) {
  const auto num_moe_layers = static_cast<size_t>(reference.num_moe_layers(Stack::kDecoder));
  if (has_flips_) {
    choices_.assign(num_moe_layers, 0);
    flips_.assign(num_moe_layers, 0);
  }
  for (size_t i = 0; i < sequences_.size(); ++i) {
    Sequence& s = sequences_[i];
    const auto num_tokens = static_cast<size_t>(prompt_tokens[i]);
    s.logits.reserve(num_tokens * static_cast<size_t>(reference.vocab_size));
    s.log_sum_exp.reserve(num_tokens);
    s.expert_idx.resize(num_moe_layers);
    for (auto& layer : s.expert_idx) layer.reserve(num_tokens * static_cast<size_t>(reference.moe.router.top_k));
  }
}

absl::Status EvalComparison::TakeReference(const SequenceUpdate& u) {
  if (u.stack == Stack::kEncoder) return absl::OkStatus();
  Sequence& s = sequences_[static_cast<size_t>(u.seq)];
  const EntryResult& r = u.result;
  for (const double logprob : r.logprobs) reference_nll_ -= logprob;
  num_scored_ += static_cast<int64_t>(r.logprobs.size());
  // Pieces of a prompt come in order.
  const auto V = static_cast<size_t>(reference_.vocab_size);
  TF_CHECK_EQ(s.logits.size(), static_cast<size_t>(u.position) * V);
  const size_t n = r.logits.size() / V;
  for (size_t t = 0; t < n; ++t) {
    const auto logits = absl::MakeConstSpan(r.logits).subspan(t * V, V);
    TF_ASSIGN_OR_RETURN(const double log_sum_exp, sampler_.LogSumExp(logits, u.position + static_cast<int64_t>(t) + 1));
    s.log_sum_exp.push_back(log_sum_exp);
  }
  s.logits.insert(s.logits.end(), r.logits.begin(), r.logits.end());
  const size_t row = n * static_cast<size_t>(reference_.moe.router.top_k);
  for (size_t l = 0; l < s.expert_idx.size(); ++l) {
    const auto layer = absl::MakeConstSpan(r.expert_idx).subspan(l * row, row);
    s.expert_idx[l].insert(s.expert_idx[l].end(), layer.begin(), layer.end());
  }
  return absl::OkStatus();
}

absl::Status EvalComparison::Take(const SequenceUpdate& u) {
  if (u.stack == Stack::kEncoder) return absl::OkStatus();
  const Sequence& s = sequences_[static_cast<size_t>(u.seq)];
  const auto V = static_cast<size_t>(reference_.vocab_size), K = static_cast<size_t>(reference_.moe.router.top_k);
  const size_t first = static_cast<size_t>(u.position), n = u.result.logits.size() / V;
  TF_CHECK_LE((first + n) * V, s.logits.size());
  num_tokens_ += static_cast<int64_t>(n);
  for (size_t t = 0; t < n; ++t) {
    const auto before = absl::MakeConstSpan(s.logits).subspan((first + t) * V, V);
    const auto now = absl::MakeConstSpan(u.result.logits).subspan(t * V, V);
    TF_ASSIGN_OR_RETURN(const double log_sum_exp, sampler_.LogSumExp(now, static_cast<int64_t>(first + t) + 1));
    const double divergence = sampler_.Divergence(before, s.log_sum_exp[first + t], now, log_sum_exp);
    kl_sum_ += divergence;
    kl_most_ = std::max(kl_most_, divergence);
    for (size_t l = 0; l < flips_.size(); ++l) {
      CountFlips(&s.expert_idx[l][(first + t) * K], &u.result.expert_idx[(l * n + t) * K], l);
    }
  }
  return absl::OkStatus();
}

// One token's choices [top_k] in one layer; -1: dropped.
void EvalComparison::CountFlips(const int32_t* before, const int32_t* now, size_t moe_idx) {
  const int64_t K = reference_.moe.router.top_k;
  int64_t num_choices = 0, num_new = 0;
  for (int64_t k = 0; k < K; ++k) {
    if (now[k] < 0) continue;
    ++num_choices;
    num_new += std::find(before, before + K, now[k]) == before + K ? 1 : 0;
  }
  const int64_t num_unknown = std::min<int64_t>(num_new, std::count(before, before + K, -1));
  choices_[moe_idx] += num_choices - num_unknown;
  flips_[moe_idx] += num_new - num_unknown;
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
    std::printf("%-8zu %8.3f %%\n", l,
                choices_[l] > 0 ? 100 * static_cast<double>(flips_[l]) / static_cast<double>(choices_[l]) : 0);
  }
}

nlohmann::ordered_json EvalComparison::Json() const {
  nlohmann::ordered_json json = {
      {"perplexity", num_scored_ > 0 ? std::exp(reference_nll_ / static_cast<double>(num_scored_)) : std::nan("")},
      {"kl_per_token", kl_sum_ / static_cast<double>(num_tokens_)},
      {"kl_most", kl_most_}};
  json["choices_by_layer"] = has_flips_ ? nlohmann::ordered_json(choices_) : nlohmann::ordered_json();
  json["flips_by_layer"] = has_flips_ ? nlohmann::ordered_json(flips_) : nlohmann::ordered_json();
  return json;
}

}  // namespace tokenferry

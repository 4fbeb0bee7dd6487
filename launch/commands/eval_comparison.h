// How far a run of prompts is from another one of the same prompts: eval --compare-to.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <vector>

#include "absl/types/span.h"
#include "core/status.h"
#include "runtime/engine/sampler.h"
#include "runtime/engine/scheduler.h"
#include "runtime/model/model_spec.h"

namespace tokenferry {

// On rank 0, in host memory. Keeps the logits and routings of the first run. The updates come on the
// engine's thread between steps, while the other ranks wait for the next plan under the transport's deadline. A token
// takes two vectorised exponentials for each entry of the vocabulary (about three milliseconds per million), which is
// little beside what its logits have cost: a product with [V, H], and 4 V bytes on their way to rank 0.
class EvalComparison {
 public:
  // Of models that are Comparable. Reserves memory for prompts of `prompt_tokens` tokens.
  EvalComparison(const ModelSpec& reference, const ModelSpec& model, absl::Span<const int64_t> prompt_tokens);
  // InvalidArgument when the two vocabularies differ, or one model has an encoder.
  static absl::Status Comparable(const ModelSpec& reference, const ModelSpec& model);
  // ResourceExhausted, with both numbers, when a comparison with `reference` keeps more than `available_bytes`.
  static absl::Status FitsMemory(const ModelSpec& reference, absl::Span<const int64_t> prompt_tokens,
                                 int64_t available_bytes);

  // Both leave an encoder's part of an update's sequence out: what is compared are choices for the tokens that are
  // scored. An update of the run that is compared with; its requests are RequestKind::kLogits. Internal: a logit is no
  // number.
  absl::Status TakeReference(const SequenceUpdate& update);
  // An update of the other run, of tokens that the first one had. The same error.
  absl::Status Take(const SequenceUpdate& update);

  // What is printed and written. Perplexities are the caller's. Flips need the same layers, experts and top-k; of other
  // models there are none. A choice that an overflow policy dropped is none; one that the first run may have dropped is
  // left out, since nobody knows whether it had been made.
  void Print() const;
  nlohmann::ordered_json Json() const;
  double reference_nll() const { return reference_nll_; }
  int64_t num_scored() const { return num_scored_; }

 private:
  struct Sequence {
    std::vector<float> logits;                     // [S, V]
    std::vector<double> log_sum_exp;               // [S]
    std::vector<std::vector<int32_t>> expert_idx;  // by layer [S, K]
  };

  void CountFlips(const int32_t* before, const int32_t* now, size_t moe_idx);

  const ModelSpec reference_;
  bool has_flips_ = false;
  Sampler sampler_;
  std::vector<Sequence> sequences_;
  double reference_nll_ = 0;
  int64_t num_scored_ = 0, num_tokens_ = 0;
  double kl_sum_ = 0, kl_most_ = 0;
  std::vector<int64_t> choices_, flips_;  // by MoE layer: those of the second run, those that the first had not made
};

}  // namespace tokenferry

// How far a run of prompts is from another one of the same prompts: eval --compare-to.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <vector>

#include "core/status.h"
#include "runtime/engine/scheduler.h"
#include "runtime/model/model_spec.h"

namespace tokenferry {

// On rank 0. Keeps the logits and routings of the first run, 4 V bytes for each token.
class EvalComparison {
 public:
  // Of models that are Comparable.
  EvalComparison(const ModelSpec& reference, const ModelSpec& model);
  // InvalidArgument when the two vocabularies differ.
  static absl::Status Comparable(const ModelSpec& reference, const ModelSpec& model);

  // An update of the run that is compared with; its requests are RequestKind::kLogits.
  void TakeReference(const SequenceUpdate& update);
  // An update of the other run, of tokens that the first one had.
  void Take(const SequenceUpdate& update);

  // What is printed and written. Perplexities are the caller's. Flips need the same layers, experts and top-k; of other
  // models there are none.
  void Print() const;
  nlohmann::ordered_json Json() const;
  double reference_nll() const { return reference_nll_; }
  int64_t num_scored() const { return num_scored_; }

 private:
  struct Sequence {
    std::vector<float> logits;                     // [S, V]
    std::vector<std::vector<int32_t>> expert_idx;  // by layer [S, K]
  };

  const ModelSpec reference_;
  bool has_flips_ = false;
  std::vector<Sequence> sequences_;
  double reference_nll_ = 0;
  int64_t num_scored_ = 0, num_tokens_ = 0;
  double kl_sum_ = 0, kl_most_ = 0;
  std::vector<int64_t> flips_;  // by layer: choices that the first run had not made
};

}  // namespace tokenferry

// How a model's router scores and chooses: what experts/router computes, and what a model's description says.
#pragma once

#include <cstdint>

namespace tokenferry {

enum class Scoring : uint8_t {
  kSoftmax,          // over all experts, f32
  kSigmoid,          // of each logit
  kSoftmaxOfChosen,  // experts are chosen by their logits; weights are the softmax over those alone (Granite, gpt-oss)
  // Two experts by their logits; each one's weight is a softmax over those whose logits are near its own, for the
  // second without the first. Their sum may be up to 2 (SparseMixer, arXiv:2310.00811, as Phi-3.5-MoE has it at
  // inference).
  kSparseMixer,
};
// Whether experts are chosen by the logits as they are, without bias or groups.
constexpr bool ChoosesByLogits(Scoring scoring) {
  return scoring == Scoring::kSoftmaxOfChosen || scoring == Scoring::kSparseMixer;
}
enum class Renormalise : uint8_t { kNo, kYes };  // selected weights divided by their sum + 1e-20
enum class GroupScore : uint8_t { kMax, kSumOfTwoLargest };

enum class WeightOn : uint8_t { kOutput, kInput };  // what a routing weight multiplies: an expert's output or input

struct RouterSpec {
  Scoring scoring = Scoring::kSoftmax;
  Renormalise renormalise = Renormalise::kNo;
  GroupScore group_score = GroupScore::kMax;
  int32_t num_groups = 1;  // divides E
  int32_t groups_kept = 1;
  int32_t top_k = 0;    // 1 .. 32, at most groups_kept * (E / num_groups); kSparseMixer: 2
  float mixer_eps = 0;  // kSparseMixer: how near is near, experts/router/sparse_mixer.h
  float scaling = 1.0f;

  friend bool operator==(const RouterSpec&, const RouterSpec&) = default;
};

}  // namespace tokenferry

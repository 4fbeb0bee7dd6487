#include "experts/router/router_scores.h"

#include <algorithm>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "experts/router/router_scores.cc"
#include "core/kernels/simd_targets.h"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
// After highway.h, once per target.
#include "core/kernels/exp-inl.h"
#include "core/kernels/lanes-inl.h"

#if TF_SIMD_TARGET
HWY_BEFORE_NAMESPACE();
namespace tokenferry {
namespace HWY_NAMESPACE {

float Largest(const float* x, int64_t size) {
  const F32Tag d;
  float largest = x[0];
  int64_t i = 0;
  if (size >= kVecLanes) {
    F32Vec m = hn::LoadU(d, x);
    for (i = kVecLanes; i + kVecLanes <= size; i += kVecLanes) m = hn::Max(m, hn::LoadU(d, x + i));
    largest = hn::GetLane(hn::MaxOfLanes(d, m));
  }
  for (; i < size; ++i) largest = std::max(largest, x[i]);
  return largest;
}

// scores = exp(logits - largest); returns their sum.
float ExpAndSum(const float* logits, float largest, int64_t num_experts, float* scores) {
  const F32Tag d;
  const F32Vec shift = hn::Set(d, largest);
  Lanes sum = ZeroLanes();
  int64_t e = 0;
  for (; e + kNumLanes <= num_experts; e += kNumLanes) {
    for (int v = 0; v < kVecs; ++v) {
      const int64_t at = e + v * kVecLanes;
      const F32Vec s = ExpF32(d, hn::Sub(hn::LoadU(d, logits + at), shift));
      hn::StoreU(s, d, scores + at);
      sum.v[v] = hn::Add(sum.v[v], s);
    }
  }
  if (e < num_experts) {
    float tail[kNumLanes] = {};  // exp is never -0, so adding +0 changes nothing
    for (int64_t i = e; i < num_experts; ++i) tail[i - e] = scores[i] = ::tokenferry::ExpF32(logits[i] - largest);
    const Lanes last = LoadLanes(tail);
    for (int v = 0; v < kVecs; ++v) sum.v[v] = hn::Add(sum.v[v], last.v[v]);
  }
  return SumLanes(sum);
}

void SimdScores(Scoring scoring, const float* logits, int64_t num_experts, float* scores) {
  const F32Tag d;
  const F32Vec one = hn::Set(d, 1.0f);
  int64_t e = 0;
  if (scoring == Scoring::kSigmoid) {
    for (; e + kVecLanes <= num_experts; e += kVecLanes) {
      const F32Vec z = hn::LoadU(d, logits + e);
      hn::StoreU(hn::Div(one, hn::Add(one, ExpF32(d, hn::Neg(z)))), d, scores + e);
    }
    if (e < num_experts) PlainScores(scoring, logits + e, num_experts - e, scores + e);
    return;
  }
  const float sum = ExpAndSum(logits, Largest(logits, num_experts), num_experts, scores);
  for (; e + kVecLanes <= num_experts; e += kVecLanes) {
    hn::StoreU(hn::Div(hn::LoadU(d, scores + e), hn::Set(d, sum)), d, scores + e);
  }
  for (; e < num_experts; ++e) scores[e] /= sum;
}

}  // namespace HWY_NAMESPACE
}  // namespace tokenferry
HWY_AFTER_NAMESPACE();
#endif  // TF_SIMD_TARGET

#if HWY_ONCE
namespace tokenferry {

void PlainScores(Scoring scoring, const float* logits, int64_t num_experts, float* scores) {
  if (scoring == Scoring::kSigmoid) {
    for (int64_t e = 0; e < num_experts; ++e) scores[e] = Sigmoid(logits[e]);
    return;
  }
  const float largest = *std::max_element(logits, logits + num_experts);
  float lanes[kNumLanes] = {};
  for (int64_t e = 0; e < num_experts; ++e) {
    scores[e] = ExpF32(logits[e] - largest);
    lanes[e % kNumLanes] += scores[e];
  }
  const float sum = SumLanes(lanes);
  for (int64_t e = 0; e < num_experts; ++e) scores[e] /= sum;
}

ScoreFn ScoresFor(Isa isa) { return TF_SIMD_CHOOSE(isa, SimdScores, PlainScores); }

}  // namespace tokenferry
#endif  // HWY_ONCE

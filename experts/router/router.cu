#include "core/device/cuda_launch.cuh"
#include "core/kernels/exp.h"
#include "core/kernels/lanes.cuh"
#include "experts/router/group_score.h"
#include "experts/router/router.h"
#include "experts/router/sparse_mixer.h"

namespace tokenferry {
namespace {

// A candidate in a choice of the largest value, equal ones by the lower index. idx < 0: none yet.
struct Candidate {
  int32_t idx = -1;
  float value = 0;

  __device__ bool Beats(const Candidate& other) const {
    if (idx < 0 || other.idx < 0) return other.idx < 0 && idx >= 0;
    return value > other.value || (value == other.value && idx < other.idx);
  }
};

// The best of all lanes' candidates, on every lane.
__device__ Candidate BestOfWarp(Candidate best) {
  for (int width = kWarpSize / 2; width > 0; width /= 2) {
    Candidate other;
    other.idx = __shfl_xor_sync(kWholeWarp, best.idx, width);
    other.value = __shfl_xor_sync(kWholeWarp, best.value, width);
    if (other.Beats(best)) best = other;
  }
  return best;
}

// The best among values[i], i < size, for which `is_open(i)`.
template <class IsOpen>
__device__ Candidate BestOf(const float* values, int32_t size, int lane, const IsOpen& is_open) {
  Candidate best;
  for (int32_t i = lane; i < size; i += kWarpSize) {
    const Candidate candidate{i, values[i]};
    if (is_open(i) && candidate.Beats(best)) best = candidate;
  }
  return BestOfWarp(best);
}

__device__ float LargestOfWarp(const float* x, int32_t size, int lane) {
  float largest = x[0];
  for (int32_t i = lane; i < size; i += kWarpSize) largest = x[i] > largest ? x[i] : largest;
  for (int width = kWarpSize / 2; width > 0; width /= 2) {
    const float other = __shfl_xor_sync(kWholeWarp, largest, width);
    largest = other > largest ? other : largest;
  }
  return largest;
}

// As PlainScores (router_scores.h), by one warp.
__device__ void Scores(Scoring scoring, const float* logits, int32_t num_experts, int lane, float* scores) {
  if (scoring == Scoring::kSoftmaxOfChosen || scoring == Scoring::kSparseMixer) {  // weights come after the choice
    for (int32_t e = lane; e < num_experts; e += kWarpSize) scores[e] = logits[e];
    __syncwarp();
    return;
  }
  if (scoring == Scoring::kSigmoid) {
    for (int32_t e = lane; e < num_experts; e += kWarpSize) scores[e] = Sigmoid(logits[e]);
    __syncwarp();
    return;
  }
  const float largest = LargestOfWarp(logits, num_experts, lane);
  for (int32_t e = lane; e < num_experts; e += kWarpSize) scores[e] = ExpF32(__fadd_rn(logits[e], -largest));
  __syncwarp();
  float lane_sum = 0.0f;
  for (int32_t e = lane % kHalfWarp; e < num_experts; e += kHalfWarp) lane_sum = __fadd_rn(lane_sum, scores[e]);
  const float sum = __shfl_sync(kWholeWarp, SumHalfWarp(lane_sum), 0);
  __syncwarp();
  for (int32_t e = lane; e < num_experts; e += kWarpSize) scores[e] = __fdiv_rn(scores[e], sum);
  __syncwarp();
}

__device__ void ChooseNothing(const RouteArgs& a, int64_t t, int lane) {
  for (int32_t k = lane; k < a.top_k; k += kWarpSize) {
    a.out.expert_idx.row(t)[k] = -1;
    a.out.weight.row(t)[k] = 0.0f;
  }
  if (a.choice.data == nullptr) return;
  for (int64_t e = lane; e < a.choice.cols; e += kWarpSize) a.choice.row(t)[e] = -INFINITY;
}

__device__ bool AnyNaN(const float* x, int32_t size, int lane) {
  bool any = false;
  for (int32_t i = lane; i < size; i += kWarpSize) any |= x[i] != x[i];
  return __any_sync(kWholeWarp, any);
}

// A warp's scratch in shared memory.
struct RouteScratch {
  float *scores, *choice, *group_scores;
  bool *kept, *taken;  // [groups], [experts]

  __device__ RouteScratch(void* memory, int32_t num_experts, int32_t num_groups)
      : scores(static_cast<float*>(memory)),
        choice(scores + num_experts),
        group_scores(choice + num_experts),
        kept(reinterpret_cast<bool*>(group_scores + num_groups)),
        taken(kept + num_groups) {}
  static size_t Bytes(int64_t num_experts, int64_t num_groups) {
    return (2 * num_experts + num_groups) * sizeof(float) + num_groups + num_experts;
  }
};

__device__ void KeepGroups(const RouteArgs& a, int32_t group_size, int lane, RouteScratch& s) {
  for (int32_t g = lane; g < a.num_groups; g += kWarpSize) {
    s.group_scores[g] = GroupScoreOf(a.group_score, s.choice + g * group_size, group_size);
    s.kept[g] = false;
  }
  __syncwarp();
  for (int32_t n = 0; n < a.groups_kept; ++n) {
    const Candidate best = BestOf(s.group_scores, a.num_groups, lane, [&](int32_t g) { return !s.kept[g]; });
    __syncwarp();
    if (lane == 0) s.kept[best.idx] = true;
    __syncwarp();
  }
}

// As MixerWeight of router.cc, by one warp: of choice `idx`; `without` is the first choice for the second, else -1.
__device__ float MixerWeight(const RouteArgs& a, const float* logits, int32_t idx, int32_t without, int lane) {
  const float largest = logits[idx];
  float lane_sum = 0.0f;
  for (int32_t e = lane % kHalfWarp; e < a.logits.cols; e += kHalfWarp) {
    if (e == without || !StaysInMix(logits[e], largest, a.mixer_eps)) continue;
    lane_sum = __fadd_rn(lane_sum, ExpF32(__fsub_rn(logits[e], largest)));
  }
  return __fdiv_rn(1.0f, __shfl_sync(kWholeWarp, SumHalfWarp(lane_sum), 0));
}

// The chosen experts, and their scores as weights. Lane k holds the k-th. False, and nothing is written: infinite
// logits made the weights NaN.
__device__ bool WriteRow(const RouteArgs& a, int64_t t, int lane, int32_t group_size, RouteScratch& s) {
  int32_t my_idx = -1;
  for (int32_t k = 0; k < a.top_k; ++k) {
    const auto is_open = [&](int32_t e) { return s.kept[e / group_size] && !s.taken[e]; };
    const Candidate best = BestOf(s.choice, static_cast<int32_t>(a.logits.cols), lane, is_open);
    __syncwarp();
    if (lane == 0) s.taken[best.idx] = true;
    __syncwarp();
    if (lane == k) my_idx = best.idx;
  }
  const bool is_of_chosen = a.scoring == Scoring::kSoftmaxOfChosen;
  float weight = my_idx < 0 ? 0.0f : s.scores[my_idx], sum = 0.0f;
  const float largest = __shfl_sync(kWholeWarp, weight, 0);
  if (is_of_chosen && my_idx >= 0) weight = ExpF32(__fsub_rn(weight, largest));
  if (a.scoring == Scoring::kSparseMixer) {
    const int32_t first = __shfl_sync(kWholeWarp, my_idx, 0), second = __shfl_sync(kWholeWarp, my_idx, 1);
    const float of_first = MixerWeight(a, s.scores, first, -1, lane);
    const float of_second = MixerWeight(a, s.scores, second, first, lane);
    weight = lane == 0 ? of_first : of_second;
  }
  for (int32_t k = 0; k < a.top_k; ++k) sum = __fadd_rn(sum, __shfl_sync(kWholeWarp, weight, k));
  if (sum != sum) return false;
  if (my_idx < 0) return true;
  if (is_of_chosen) {
    weight = __fdiv_rn(weight, sum);
    sum = 1.0f;
  }
  if (a.renormalise == Renormalise::kYes) weight = __fdiv_rn(weight, __fadd_rn(sum, 1e-20f));
  a.out.expert_idx.row(t)[lane] = my_idx;
  a.out.weight.row(t)[lane] = __fmul_rn(weight, a.scaling);
  return true;
}

__device__ void ChooseNothingForBad(const RouteArgs& a, int64_t t, int lane) {
  ChooseNothing(a, t, lane);
  if (lane == 0) a.bad_tokens[t] = 1;
}

// A warp, which is a block, per token.
__global__ void RouteKernel(RouteArgs a) {
  extern __shared__ float shared[];
  const int lane = threadIdx.x;
  const int64_t t = blockIdx.x;
  const auto num_experts = static_cast<int32_t>(a.logits.cols);
  const int32_t group_size = num_experts / a.num_groups;
  RouteScratch s(shared, num_experts, a.num_groups);
  if (a.position != nullptr && a.position[t] < 0) return ChooseNothing(a, t, lane);
  bool is_bad = AnyNaN(a.logits.row(t), num_experts, lane);
  if (!is_bad) {
    Scores(a.scoring, a.logits.row(t), num_experts, lane, s.scores);
    for (int32_t e = lane; e < num_experts; e += kWarpSize) {
      s.choice[e] = a.bias == nullptr ? s.scores[e] : __fadd_rn(s.scores[e], a.bias[e]);
      s.taken[e] = false;
    }
    __syncwarp();
    is_bad = AnyNaN(s.choice, num_experts, lane);
  }
  if (is_bad) return ChooseNothingForBad(a, t, lane);
  KeepGroups(a, group_size, lane, s);
  if (a.choice.data != nullptr) {
    for (int32_t e = lane; e < num_experts; e += kWarpSize) {
      a.choice.row(t)[e] = s.kept[e / group_size] ? s.choice[e] : -INFINITY;
    }
  }
  if (!WriteRow(a, t, lane, group_size, s)) ChooseNothingForBad(a, t, lane);
}

}  // namespace

absl::Status CudaRoute(const RouteArgs& a, void* stream) {
  const size_t scratch = RouteScratch::Bytes(a.logits.cols, a.num_groups);
  return LaunchKernel(RouteKernel, {a.logits.rows, kWarpSize, scratch}, stream, a);
}

}  // namespace tokenferry

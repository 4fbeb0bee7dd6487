#include "experts/router/router.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "core/check.h"
#include "core/device/cuda_launcher.h"
#include "core/kernels/dot.h"
#include "core/kernels/exp.h"
#include "core/kernels/scratch.h"
#include "experts/router/group_score.h"
#include "experts/router/router_scores.h"
#include "experts/router/sparse_mixer.h"

namespace tokenferry {
namespace {

constexpr int kMaxTopK = 32;
constexpr int64_t kTokensPerTask = 8;

// The largest values offered so far, falling; of equal ones the first offered comes first.
class TopList {
 public:
  explicit TopList(int size) : size_(size) {}

  void Offer(int32_t idx, float value) {
    if (count_ == size_ && !(value > entries_[count_ - 1].value)) return;
    int at = count_ < size_ ? count_++ : count_ - 1;
    for (; at > 0 && value > entries_[at - 1].value; --at) entries_[at] = entries_[at - 1];
    entries_[at] = {idx, value};
  }

  int count() const { return count_; }
  int32_t idx(int i) const { return entries_[i].idx; }

 private:
  struct Entry {
    int32_t idx;
    float value;
  };
  int size_, count_ = 0;
  Entry entries_[kMaxTopK];
};

// Marks the groups_kept groups with the largest scores.
void KeepGroups(const RouteArgs& a, const float* choice, float* group_scores, bool* kept) {
  const int64_t size = a.logits.cols / a.num_groups;
  for (int32_t g = 0; g < a.num_groups; ++g) {
    group_scores[g] = GroupScoreOf(a.group_score, choice + g * size, static_cast<int32_t>(size));
    kept[g] = false;
  }
  for (int32_t n = 0; n < a.groups_kept; ++n) {
    int32_t best = -1;
    for (int32_t g = 0; g < a.num_groups; ++g) {
      if (!kept[g] && (best < 0 || group_scores[g] > group_scores[best])) best = g;
    }
    kept[best] = true;
  }
}

// Bytes of scratch for one token: scores, choices, group scores, kept.
size_t ScratchBytes(const RouteArgs& a) {
  return (2 * a.logits.cols + a.num_groups) * sizeof(float) + a.num_groups * sizeof(bool);
}

bool AnyNaN(const float* x, int64_t size) {
  return std::any_of(x, x + size, [](float v) { return std::isnan(v); });
}

void ChooseNothing(const RouteArgs& a, int64_t t) {
  std::fill(a.out.expert_idx.row(t), a.out.expert_idx.row(t) + a.top_k, -1);
  std::fill(a.out.weight.row(t), a.out.weight.row(t) + a.top_k, 0.0f);
  if (a.choice.data == nullptr) return;
  std::fill(a.choice.row(t), a.choice.row(t) + a.choice.cols, -std::numeric_limits<float>::infinity());
}

// The sparse mixer's weight of choice k.
float MixerWeight(const RouteArgs& a, const float* logits, const int32_t* idx, int k) {
  const float largest = logits[idx[k]];
  float lanes[kNumLanes] = {};
  for (int32_t e = 0; e < a.logits.cols; ++e) {
    if (k > 0 && e == idx[0]) continue;
    if (StaysInMix(logits[e], largest, a.mixer_eps)) lanes[e % kNumLanes] += ExpF32(logits[e] - largest);
  }
  return 1.0f / SumLanes(lanes);
}

// The weight of choice k, before it is normalised.
float WeightOf(const RouteArgs& a, const float* scores, const int32_t* idx, int k) {
  if (a.scoring == Scoring::kSparseMixer) return MixerWeight(a, scores, idx, k);
  return a.scoring == Scoring::kSoftmaxOfChosen ? ExpF32(scores[idx[k]] - scores[idx[0]]) : scores[idx[k]];
}

// False: infinite logits made the weights NaN.
bool WriteRow(const RouteArgs& a, int64_t t, const TopList& top, const float* scores) {
  int32_t* idx = a.out.expert_idx.row(t);
  float *weight = a.out.weight.row(t), sum = 0.0f;
  for (int k = 0; k < a.top_k; ++k) {
    idx[k] = top.idx(k);
    weight[k] = WeightOf(a, scores, idx, k);
    sum += weight[k];
  }
  if (std::isnan(sum)) return false;
  if (a.scoring == Scoring::kSoftmaxOfChosen) {
    for (int k = 0; k < a.top_k; ++k) weight[k] /= sum;
    sum = 1.0f;
  }
  for (int k = 0; k < a.top_k; ++k) {
    if (a.renormalise == Renormalise::kYes) weight[k] /= sum + 1e-20f;
    weight[k] *= a.scaling;
  }
  return true;
}

// Returns whether the token could be routed, if it is one.
bool RouteToken(const RouteArgs& a, int64_t t, ScoreFn score, void* scratch) {
  const int64_t num_experts = a.logits.cols, group_size = num_experts / a.num_groups;
  float *scores = static_cast<float*>(scratch), *choice = scores + num_experts, *group_scores = choice + num_experts;
  bool* kept = reinterpret_cast<bool*>(group_scores + a.num_groups);
  ChooseNothing(a, t);
  if (a.position != nullptr && a.position[t] < 0) return true;
  if (AnyNaN(a.logits.row(t), num_experts)) return false;
  if (!ChoosesByLogits(a.scoring)) {
    score(a.scoring, a.logits.row(t), num_experts, scores);
  } else {
    std::copy_n(a.logits.row(t), num_experts, scores);
  }
  for (int64_t e = 0; e < num_experts; ++e) choice[e] = a.bias == nullptr ? scores[e] : scores[e] + a.bias[e];
  if (AnyNaN(choice, num_experts)) return false;
  KeepGroups(a, choice, group_scores, kept);
  TopList top(a.top_k);
  for (int32_t g = 0; g < a.num_groups; ++g) {
    if (!kept[g]) continue;
    if (a.choice.data != nullptr) {
      std::copy(choice + g * group_size, choice + (g + 1) * group_size, a.choice.row(t) + g * group_size);
    }
    for (int64_t e = g * group_size; e < (g + 1) * group_size; ++e) top.Offer(static_cast<int32_t>(e), choice[e]);
  }
  TF_CHECK_EQ(top.count(), a.top_k);
  if (WriteRow(a, t, top, scores)) return true;
  ChooseNothing(a, t);
  return false;
}

void ReferenceRoute(const RouteArgs& a) {
  std::vector<float> scratch(ScratchBytes(a) / sizeof(float) + 1);
  for (int64_t t = 0; t < a.logits.rows; ++t) {
    if (!RouteToken(a, t, PlainScores, scratch.data())) a.bad_tokens[t] = 1;
  }
}

void CpuRoute(const RouteArgs& a, CpuContext& context) {
  const ScoreFn score = ScoresFor(context.isa);
  context.pool.ParallelFor((a.logits.rows + kTokensPerTask - 1) / kTokensPerTask, [&](int64_t task, int) {
    void* scratch = ThreadScratch(ScratchBytes(a));
    const int64_t end = std::min(a.logits.rows, (task + 1) * kTokensPerTask);
    for (int64_t t = task * kTokensPerTask; t < end; ++t) {
      if (!RouteToken(a, t, score, scratch)) a.bad_tokens[t] = 1;
    }
  });
}

}  // namespace

absl::Status CudaRoute(const RouteArgs& args, void* stream);  // router.cu

constexpr Op<RouteArgs> kRoute = {"route", ReferenceRoute, CpuRoute, TF_CUDA_LAUNCHER(CudaRoute)};

void Route(Stream& stream, const RouteArgs& args) {
  TF_CHECK(args.bad_tokens != nullptr || args.logits.rows == 0);
  TF_CHECK_GT(args.num_groups, 0);
  TF_CHECK_EQ(args.logits.cols % args.num_groups, 0);
  TF_CHECK_GE(args.groups_kept, 1);
  TF_CHECK_LE(args.groups_kept, args.num_groups);
  TF_CHECK_GE(args.top_k, 1);
  TF_CHECK_LE(args.top_k, kMaxTopK);
  TF_CHECK_LE(args.top_k, args.groups_kept * (args.logits.cols / args.num_groups));
  TF_CHECK(!ChoosesByLogits(args.scoring) || (args.bias == nullptr && args.num_groups == 1));
  TF_CHECK(args.scoring != Scoring::kSparseMixer || args.top_k == 2);
  TF_CHECK_EQ(args.out.expert_idx.cols, args.top_k);
  TF_CHECK_EQ(args.out.weight.cols, args.top_k);
  if (args.choice.data != nullptr) {
    TF_CHECK_EQ(args.choice.rows, args.logits.rows);
    TF_CHECK_EQ(args.choice.cols, args.logits.cols);
  }
  stream.Launch(kRoute, args);
}

}  // namespace tokenferry

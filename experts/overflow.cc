#include "experts/overflow.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "core/check.h"

namespace tokenferry {
namespace {

void ReferenceCountSelections(const CountSelectionsArgs& a) {
  std::fill(a.counts, a.counts + a.num_experts, 0);
  for (int64_t t = 0; t < a.expert_idx.rows; ++t) {
    for (int64_t k = 0; k < a.expert_idx.cols; ++k) {
      const int32_t expert = a.expert_idx.row(t)[k];
      TF_CHECK_LT(expert, a.num_experts);
      if (expert >= 0) ++a.counts[expert];
    }
  }
}

void ReferenceApplyCapacity(const ApplyCapacityArgs& a) {
  std::vector<int64_t> taken(a.taken_before, a.taken_before + a.num_experts);
  for (int64_t t = 0; t < a.routing.expert_idx.rows; ++t) {
    for (int64_t k = 0; k < a.routing.expert_idx.cols; ++k) {
      int32_t& expert = a.routing.expert_idx.row(t)[k];
      float& weight = a.routing.weight.row(t)[k];
      TF_CHECK_LT(expert, a.num_experts);
      if (expert < 0 || taken[expert]++ < a.capacity) continue;
      ++a.dropped[expert];
      a.lost_weight[expert] += weight;
      expert = -1;
      weight = 0.0f;
    }
  }
}

// Both are integer passes over a few thousand selections whose order matters: one thread.
constexpr Op<CountSelectionsArgs> kCountSelections = {
    "count_selections", ReferenceCountSelections,
    [](const CountSelectionsArgs& a, CpuContext&) { ReferenceCountSelections(a); }};
constexpr Op<ApplyCapacityArgs> kApplyCapacity = {
    "apply_capacity", ReferenceApplyCapacity,
    [](const ApplyCapacityArgs& a, CpuContext&) { ReferenceApplyCapacity(a); }};

}  // namespace

int64_t ExpertCapacity(double factor, int top_k, int64_t num_tokens, int num_experts) {
  TF_CHECK_GT(num_experts, 0);
  return static_cast<int64_t>(std::ceil(factor * top_k * static_cast<double>(num_tokens) / num_experts));
}

void CountSelections(Stream& stream, const CountSelectionsArgs& args) { stream.Launch(kCountSelections, args); }

void ApplyCapacity(Stream& stream, const ApplyCapacityArgs& args) {
  TF_CHECK_EQ(args.routing.expert_idx.rows, args.routing.weight.rows);
  TF_CHECK_EQ(args.routing.expert_idx.cols, args.routing.weight.cols);
  stream.Launch(kApplyCapacity, args);
}

}  // namespace tokenferry

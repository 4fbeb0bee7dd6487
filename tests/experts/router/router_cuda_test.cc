#include "experts/router/router.h"
#include "tests/support/cuda_compare.h"

namespace tokenferry {
namespace {

struct RouterShape {
  int64_t num_experts;
  int32_t num_groups, groups_kept, top_k;
};
// One expert, fewer and more than a warp's lanes, groups that are single experts, DeepSeek-V3's.
const std::vector<RouterShape> kShapes = {{1, 1, 1, 1},  {5, 1, 1, 3},   {16, 1, 1, 2},    {33, 1, 1, 2}, {70, 1, 1, 6},
                                          {12, 4, 2, 4}, {33, 11, 5, 9}, {40, 40, 32, 32}, {256, 8, 4, 8}};

void RouteCase(OpRun& run, int64_t num_tokens, const RouterShape& shape, RouteArgs args) {
  const int64_t E = shape.num_experts;
  std::vector<float> logits = NormalFloats(run.rng(), num_tokens * E);
  for (float& x : logits) {
    if (run.rng()() % 4 == 0) x = static_cast<float>(static_cast<int>(x * 2)) / 2;  // ties
  }
  if (num_tokens > 1) logits[E + run.rng()() % E] = NAN;
  if (num_tokens > 2) logits[2 * E + run.rng()() % E] = INFINITY;
  args.logits = {run.Input(logits), num_tokens, E, E};
  if (run.rng()() % 2 == 0 && !ChoosesByLogits(args.scoring)) args.bias = run.Input(NormalFloats(run.rng(), E));
  args.num_groups = shape.num_groups;
  args.groups_kept = shape.groups_kept;
  args.top_k = shape.top_k;
  args.scaling = 2.5f;
  args.out.expert_idx = {run.Output<int32_t>("expert_idx", num_tokens * args.top_k), num_tokens, args.top_k,
                         args.top_k};
  args.out.weight = {run.Output<float>("weight", num_tokens * args.top_k), num_tokens, args.top_k, args.top_k};
  if (run.rng()() % 2 == 0) args.choice = {run.Output<float>("choice", num_tokens * E), num_tokens, E, E};
  if (run.rng()() % 2 == 0) args.position = run.Input(UniformInts(run.rng(), num_tokens, -1, 2));  // some are no tokens
  args.bad_tokens = run.InOut("bad tokens", std::vector<uint8_t>(num_tokens, 9));
  Route(run.stream(), args);
}

class RouterCudaTest : public CudaCompareTest {};

TEST_F(RouterCudaTest, Route) {
  for (const RouterShape& shape : kShapes) {
    for (int64_t num_tokens : {0, 1, 9}) {
      for (Scoring scoring : {Scoring::kSoftmax, Scoring::kSigmoid, Scoring::kSoftmaxOfChosen, Scoring::kSparseMixer}) {
        for (GroupScore group_score : {GroupScore::kMax, GroupScore::kSumOfTwoLargest}) {
          for (Renormalise renormalise : {Renormalise::kNo, Renormalise::kYes}) {
            if (ChoosesByLogits(scoring) && shape.num_groups > 1) continue;
            if (scoring == Scoring::kSparseMixer && shape.top_k != 2) continue;
            SCOPED_TRACE(testing::Message()
                         << num_tokens << " tokens, " << shape.num_experts << " experts, scoring "
                         << static_cast<int>(scoring) << ", group score " << static_cast<int>(group_score));
            RouteArgs args;
            args.scoring = scoring;
            args.group_score = group_score;
            args.renormalise = renormalise;
            args.mixer_eps = 0.15f;
            ExpectSameBits([&](OpRun& run) { RouteCase(run, num_tokens, shape, args); });
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace tokenferry

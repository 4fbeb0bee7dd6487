#include "experts/router/router.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "tests/experts/router/route_runner.h"

namespace tokenferry {
namespace {

// ---- vectors worked out by hand in double, for one token ----

TEST(RouteVectors, SoftmaxTopTwo) {
  RouteArgs args = Shape(1, 8, 2);
  ExpectVector(args, {}, {2, 5}, {0.441907, 0.198561});
  args.renormalise = Renormalise::kYes;
  ExpectVector(args, {}, {2, 5}, {0.689974, 0.310026});
}

TEST(RouteVectors, SoftmaxTopFour) {
  RouteArgs args = Shape(1, 8, 4);
  args.renormalise = Renormalise::kYes;
  ExpectVector(args, {}, {2, 5, 6, 0}, {0.514141, 0.231019, 0.140120, 0.114720});
}

TEST(RouteVectors, SoftmaxOfTheChosen) {
  RouteArgs args = Shape(1, 8, 4);
  args.scoring = Scoring::kSoftmaxOfChosen;
  ExpectVector(args, {}, {2, 5, 6, 0}, {0.514141, 0.231019, 0.140120, 0.114720});
}

TEST(RouteVectors, GroupLimitedByTheLargest) {
  RouteArgs args = Shape(1, 8, 3);
  args.num_groups = 4;
  args.groups_kept = 2;
  args.scaling = 16.0f;
  ExpectVector(args, {}, {2, 5, 3}, {7.070507, 3.176984, 1.057526});
}

RouteArgs SigmoidArgs() {
  RouteArgs args = Shape(1, 8, 3);
  args.scoring = Scoring::kSigmoid;
  args.renormalise = Renormalise::kYes;
  args.group_score = GroupScore::kSumOfTwoLargest;
  args.scaling = 2.5f;
  return args;
}

TEST(RouteVectors, SigmoidWithBias) { ExpectVector(SigmoidArgs(), kBias, {1, 6, 4}, {0.493403, 1.225865, 0.780732}); }

TEST(RouteVectors, SigmoidWithBiasAndGroups) {
  RouteArgs args = SigmoidArgs();
  args.num_groups = 4;
  args.groups_kept = 2;
  ExpectVector(args, kBias, {1, 4, 0}, {0.510535, 0.807842, 1.181623});
}

TEST(RouteVectors, ChoicesMayAllBeNegative) {  // groups that were not kept must not come back with a 0
  RouteArgs args = SigmoidArgs();
  args.num_groups = 4;
  args.groups_kept = 2;
  std::vector<float> bias = kBias;
  for (float& b : bias) b -= 2.0f;
  ExpectVector(args, bias, {1, 4, 0}, {0.510535, 0.807842, 1.181623});
}

// ---- rules ----

TEST(Route, TiesGoToTheLowerIndex) {
  for (Scoring scoring : {Scoring::kSoftmax, Scoring::kSigmoid}) {
    RouteArgs args = Shape(1, 40, 5);
    args.scoring = scoring;
    std::vector<float> logits(40, 0.25f);
    logits[30] = logits[33] = 1.0f;
    const Routed got = RunRoute(args, logits, {}, ReferenceOptions());
    EXPECT_EQ(got.idx, (std::vector<int32_t>{30, 33, 0, 1, 2}));
    ExpectEverywhere(args, logits, {}, got);
    args.num_groups = 8;
    args.groups_kept = 3;
    EXPECT_EQ(RunRoute(args, logits, {}, ReferenceOptions()).idx, (std::vector<int32_t>{30, 33, 0, 1, 2}));
    args.top_k = 15;
    std::vector<int32_t> all = {30, 33, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 31, 32, 34};
    EXPECT_EQ(RunRoute(args, logits, {}, ReferenceOptions()).idx, all);
  }
}

TEST(Route, WhatIsNoTokenChoosesNothingAndIsNotBad) {
  RouteArgs args = Shape(3, 4, 2);
  const std::vector<float> logits = {1, 2, 3, 4, NAN, 2, 3, 4, 4, 3, 2, 1};
  for (Isa isa : SupportedIsaList()) {
    TestDevice device(FastOptions(isa, 1));
    args.position = device.Upload(std::vector<int32_t>{7, -1, 0});
    const Routed got = RunRoute(args, logits, {}, FastOptions(isa, 1));
    EXPECT_EQ(got.idx, (std::vector<int32_t>{3, 2, -1, -1, 0, 1}));
    EXPECT_EQ(got.weight[2], 0.0f);
    EXPECT_EQ(got.bad_tokens, Marks({0, 0, 0}));
  }
}

TEST(Route, ABadTokenChoosesNothing) {
  const float inf = std::numeric_limits<float>::infinity(), nan = std::numeric_limits<float>::quiet_NaN();
  std::mt19937 random(41);
  RouteArgs args = Shape(5, 20, 4);
  std::vector<float> logits = RandomFloats(100, random);
  logits[27] = nan;
  logits[60] = inf;  // a softmax over it has no value
  for (int e = 0; e < 19; ++e) logits[80 + e] = -inf;
  const Routed got = RunRoute(args, logits, {}, ReferenceOptions());
  EXPECT_EQ(got.bad_tokens, Marks({0, 1, 0, 1, 0}));
  for (int k = 0; k < 4; ++k) {
    for (int t : {1, 3}) {
      EXPECT_EQ(got.idx[t * 4 + k], -1);
      EXPECT_EQ(got.weight[t * 4 + k], 0.0f);
      EXPECT_EQ(got.choice[t * 20 + k], -inf);
    }
    EXPECT_GE(got.idx[k], 0);
  }
  EXPECT_EQ(got.idx[16], 19);
  EXPECT_EQ(got.weight[16], 1.0f);
  ExpectEverywhere(args, logits, {}, got);
  args.scoring = Scoring::kSigmoid;
  const Routed sigmoid = RunRoute(args, logits, {}, ReferenceOptions());
  EXPECT_EQ(sigmoid.bad_tokens, Marks({0, 1, 0, 0, 0}));
  EXPECT_EQ(sigmoid.idx[12], 0);
  EXPECT_EQ(sigmoid.weight[12], 1.0f);
  ExpectEverywhere(args, logits, {}, sigmoid);
  // An infinity among the chosen makes NaN weights; one that is not chosen has no part in them.
  args.scoring = Scoring::kSoftmaxOfChosen;
  for (int e = 0; e < 20; ++e) logits[e] = e < 3 ? 1.0f : -inf;  // three that can be chosen, of four
  const Routed chosen = RunRoute(args, logits, {}, ReferenceOptions());
  EXPECT_EQ(chosen.bad_tokens, Marks({0, 1, 0, 1, 0}));
  EXPECT_EQ(chosen.weight[3], 0.0f);
  EXPECT_EQ(chosen.idx[12], -1);
  ExpectEverywhere(args, logits, {}, chosen);
  args = Shape(5, 20, 2);
  args.scoring = Scoring::kSparseMixer;
  const Routed mixed = RunRoute(args, logits, {}, ReferenceOptions());
  EXPECT_EQ(mixed.bad_tokens, Marks({0, 1, 0, 1, 1}));  // the last one's second choice is -infinity
  ExpectEverywhere(args, logits, {}, mixed);
}

// ---- against double ----

// Scores in double; the choice is redone from the f32 scores' order, so that only values are compared here.
std::vector<double> ExactScores(Scoring scoring, const float* logits, int64_t num_experts) {
  std::vector<double> s(num_experts);
  const double largest = *std::max_element(logits, logits + num_experts);
  double sum = 0;
  for (int64_t e = 0; e < num_experts; ++e) {
    s[e] = scoring == Scoring::kSigmoid ? 1 / (1 + std::exp(-static_cast<double>(logits[e])))
                                        : std::exp(logits[e] - largest);
    sum += s[e];
  }
  if (scoring == Scoring::kSoftmax) {
    for (double& v : s) v /= sum;
  }
  return s;
}

struct RandomShape {
  int64_t num_tokens, num_experts;
  int32_t top_k, num_groups, groups_kept;
};
constexpr RandomShape kShapes[] = {{0, 8, 2, 1, 1},    {1, 1, 1, 1, 1},     {3, 7, 7, 1, 1},       {17, 33, 5, 3, 2},
                                   {40, 256, 8, 8, 4}, {9, 1024, 32, 1, 1}, {12, 1024, 32, 64, 5}, {5, 64, 6, 64, 6}};

// The error of a score: with u = 2^-24, exp errs by 2 ulp <= 4u relative, the subtraction l - max by u * |l - max| <=
// 20u in the exponent for logits within 20; sums of E positive terms along chains of E / 16 + 4 roundings; one
// division. A sigmoid: 4u, 1 addition, 1 division. Then a sum of K weights and its division, and the scaling: K + 3
// more.
TEST(Route, ScoresAreNearDouble) {
  std::mt19937 random(42);
  for (const RandomShape& shape : kShapes) {
    for (Scoring scoring : {Scoring::kSoftmax, Scoring::kSigmoid}) {
      RouteArgs args = Shape(shape.num_tokens, shape.num_experts, shape.top_k);
      args.scoring = scoring;
      args.scaling = 1.5f;
      const std::vector<float> logits = RandomFloats(shape.num_tokens * shape.num_experts, random, 2.0f);
      const Routed got = RunRoute(args, logits, {}, ReferenceOptions());
      const double softmax_ops = 2 * (4 + 20) + shape.num_experts / 16.0 + 4 + 1;
      const double bound = ((scoring == Scoring::kSoftmax ? softmax_ops : 6) + 1) * 0x1p-24 * 1.01;
      for (int64_t t = 0; t < shape.num_tokens; ++t) {
        const std::vector<double> exact = ExactScores(scoring, &logits[t * shape.num_experts], shape.num_experts);
        for (int k = 0; k < shape.top_k; ++k) {
          const int64_t i = t * shape.top_k + k;
          ASSERT_NEAR(got.weight[i], 1.5 * exact[got.idx[i]], bound * 1.5 * exact[got.idx[i]]) << t << " " << k;
        }
      }
    }
  }
}

// The chosen set, redone by sorting.
TEST(Route, ChoosesWhatSortingChooses) {
  std::mt19937 random(43);
  for (const RandomShape& shape : kShapes) {
    RouteArgs args = Shape(shape.num_tokens, shape.num_experts, shape.top_k);
    args.scoring = Scoring::kSigmoid;
    args.num_groups = shape.num_groups;
    args.groups_kept = shape.groups_kept;
    // Few different logits: ties everywhere. The bias undoes the order of the scores.
    std::vector<float> logits(shape.num_tokens * shape.num_experts), bias(shape.num_experts);
    for (float& l : logits) l = static_cast<float>(random() % 4) * 0.5f;
    for (float& b : bias) b = static_cast<float>(random() % 3) * 0.5f - 2.0f;
    const Routed got = RunRoute(args, logits, bias, ReferenceOptions());
    const int64_t group_size = shape.num_experts / shape.num_groups;
    for (int64_t t = 0; t < shape.num_tokens; ++t) {
      std::vector<float> choice(shape.num_experts);
      for (int64_t e = 0; e < shape.num_experts; ++e) {
        choice[e] = static_cast<float>(1.0 / (1.0 + std::exp(-logits[t * shape.num_experts + e]))) + bias[e];
      }
      const auto by_value = [](const std::vector<float>& v) {
        std::vector<int32_t> order(v.size());
        std::iota(order.begin(), order.end(), 0);
        std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return v[a] > v[b] + 1e-6f; });
        return order;
      };
      std::vector<float> group(shape.num_groups);
      for (int64_t g = 0; g < shape.num_groups; ++g) {
        group[g] = *std::max_element(&choice[g * group_size], &choice[g * group_size] + group_size);
      }
      std::vector<int32_t> groups = by_value(group);
      groups.resize(shape.groups_kept);
      for (int64_t e = 0; e < shape.num_experts; ++e) {
        const float seen = got.choice[t * shape.num_experts + e];
        if (std::count(groups.begin(), groups.end(), e / group_size)) {
          ASSERT_NEAR(seen, choice[e], 1e-6);
        } else {
          ASSERT_EQ(seen, -std::numeric_limits<float>::infinity());
        }
      }
      std::vector<int32_t> expected;
      for (int32_t e : by_value(choice)) {
        if (std::count(groups.begin(), groups.end(), e / group_size)) expected.push_back(e);
      }
      expected.resize(shape.top_k);
      ASSERT_EQ(expected,
                std::vector<int32_t>(got.idx.begin() + t * shape.top_k, got.idx.begin() + (t + 1) * shape.top_k));
    }
  }
}

TEST(Route, EveryInstructionSetAndModeGivesTheSameBits) {
  std::mt19937 random(44);
  for (const RandomShape& shape : kShapes) {
    for (Scoring scoring : {Scoring::kSoftmax, Scoring::kSigmoid}) {
      for (GroupScore group_score : {GroupScore::kMax, GroupScore::kSumOfTwoLargest}) {
        RouteArgs args = Shape(shape.num_tokens, shape.num_experts, shape.top_k);
        args.scoring = scoring;
        args.renormalise = Renormalise::kYes;
        args.group_score = group_score;
        args.num_groups = shape.num_groups;
        args.groups_kept = shape.groups_kept;
        args.scaling = 2.5f;
        const std::vector<float> logits = RandomFloats(shape.num_tokens * shape.num_experts, random, 3.0f);
        const std::vector<float> bias = RandomFloats(shape.num_experts, random, 0.1f);
        const Routed expected = RunRoute(args, logits, bias, ReferenceOptions());
        ExpectEverywhere(args, logits, bias, expected);
        for (const CpuDeviceOptions& options : AllDeviceModes(BestIsa(SupportedIsas()))) {
          EXPECT_TRUE(SameBytes(RunRoute(args, logits, bias, options).weight, expected.weight));
        }
      }
    }
  }
}

// Logits far apart and alike: weights sum to one, and every instruction set agrees.
TEST(Route, SoftmaxOfTheChosenSumsToOne) {
  std::mt19937 random(45);
  RouteArgs args = Shape(40, 33, 5);
  args.scoring = Scoring::kSoftmaxOfChosen;
  std::vector<float> logits = RandomFloats(40 * 33, random, 30.0f);
  std::fill_n(logits.begin(), 33, 1.0f);
  const Routed expected = RunRoute(args, logits, {}, ReferenceOptions());
  ExpectEverywhere(args, logits, {}, expected);
  for (int64_t t = 0; t < 40; ++t) {
    float sum = 0;
    for (int k = 0; k < 5; ++k) sum += expected.weight[t * 5 + k];
    EXPECT_NEAR(sum, 1, 1e-6);  // five quotients, each rounded once, and four sums
  }
  EXPECT_EQ(std::vector<int32_t>(expected.idx.begin(), expected.idx.begin() + 5),
            (std::vector<int32_t>{0, 1, 2, 3, 4}));
}

}  // namespace
}  // namespace tokenferry

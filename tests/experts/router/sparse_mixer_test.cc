// The router of Phi-3.5-MoE.
#include <algorithm>
#include <cmath>

#include "tests/experts/router/route_runner.h"

namespace tokenferry {
namespace {

TEST(RouteVectors, SparseMixer) {
  RouteArgs args = Shape(1, 8, 2);
  args.scoring = Scoring::kSparseMixer;
  args.mixer_eps = 0.01f;  // nobody is near
  ExpectVector(args, {}, {2, 5}, {1, 1});
  args.mixer_eps = 0.25f;  // the first choice is near one expert, the second near another one
  ExpectVector(args, {}, {2, 5}, {0.689974, 0.622459});
  args.mixer_eps = 0.4f;
  ExpectVector(args, {}, {2, 5}, {0.514141, 0.475485});
}

// Sizes are what count where all logits are negative, and for zeros there is none.
TEST(RouteVectors, SparseMixerOfNegativeLogitsAndZeros) {
  RouteArgs args = Shape(2, 8, 2);
  args.scoring = Scoring::kSparseMixer;
  args.mixer_eps = 0.25f;
  std::vector<float> logits = kLogits;
  for (float& l : logits) l -= 3;
  logits.resize(16, 0.0f);
  const Routed got = RunRoute(args, logits, {}, ReferenceOptions());
  EXPECT_EQ(got.idx, (std::vector<int32_t>{2, 5, 0, 1}));
  const double want[] = {0.689974, 0.376065, 1 / 8.0, 1 / 7.0};
  for (int i = 0; i < 4; ++i) EXPECT_NEAR(got.weight[i], want[i], 6e-7) << i;
  ExpectEverywhere(args, logits, {}, got);
}

// Phi-3.5-MoE's definition in double. Logits are multiples of 1 / 64 below 8, so that their differences are exact, and
// a ratio of two is 0.3 itself, where both keep the expert, or 2e-4 away from it: f32 masks the same ones.
TEST(Route, SparseMixerIsNearDouble) {
  std::mt19937 random(47);
  constexpr double kEps = 0.15f;
  for (const auto& [num_tokens, num_experts] : {std::pair{1, 2}, {5, 3}, {30, 16}, {9, 17}, {7, 33}}) {
    RouteArgs args = Shape(num_tokens, num_experts, 2);
    args.scoring = Scoring::kSparseMixer;
    args.mixer_eps = static_cast<float>(kEps);
    std::vector<float> logits = RandomFloats(int64_t{num_tokens} * num_experts, random, 2.0f);
    for (float& l : logits) l = std::round(l * 64) / 64;
    const Routed got = RunRoute(args, logits, {}, ReferenceOptions());
    for (int t = 0; t < num_tokens; ++t) {
      const float* l = &logits[static_cast<size_t>(t) * num_experts];
      int first = -1;
      for (int k = 0; k < 2; ++k) {
        int chosen = -1;
        for (int e = 0; e < num_experts; ++e) {
          if (e != first && (chosen < 0 || l[e] > l[chosen])) chosen = e;
        }
        double sum = 0;
        for (int e = 0; e < num_experts; ++e) {
          const double distance = (l[chosen] - l[e]) / std::max<double>(std::abs(l[e]), l[chosen]);
          if (e != first && !(distance > 2 * kEps)) sum += std::exp(static_cast<double>(l[e]) - l[chosen]);
        }
        ASSERT_EQ(got.idx[t * 2 + k], chosen) << t << " " << k;
        // 4 u of an exponential, E / 16 + 4 sums, one quotient.
        ASSERT_NEAR(got.weight[t * 2 + k] * sum, 1, (4 + num_experts / 16.0 + 5) * 0x1p-24 * 1.01) << t << " " << k;
        first = chosen;
      }
    }
    ExpectEverywhere(args, logits, {}, got);
    for (const CpuDeviceOptions& options : AllDeviceModes(BestIsa(SupportedIsas()))) {
      EXPECT_TRUE(SameBytes(RunRoute(args, logits, {}, options).weight, got.weight));
    }
  }
}

}  // namespace
}  // namespace tokenferry

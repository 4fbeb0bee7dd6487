#include "experts/router/study_routers.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "tests/core/kernels/kernel_test_util.h"

namespace tokenferry {
namespace {

constexpr unsigned kSeed = 48;

std::vector<CpuDeviceOptions> FastDevices() {
  std::vector<CpuDeviceOptions> devices;
  for (Isa isa : SupportedIsaList()) devices.push_back(FastOptions(isa, 3));
  for (const CpuDeviceOptions& options : AllDeviceModes(BestIsa(SupportedIsas()))) devices.push_back(options);
  return devices;
}

// ---- noisy top-k ----

std::vector<float> WithNoise(const std::vector<float>& logits, const std::vector<float>& noise, int64_t num_experts,
                             uint64_t seed, int64_t first_token, const CpuDeviceOptions& options) {
  TestDevice device(options);
  const auto rows = static_cast<int64_t>(logits.size()) / num_experts;
  float* data = device.Upload(logits);
  AddGateNoise(device.stream(), {.logits = MakeMatrix<float>(data, rows, num_experts),
                                 .noise_logits = MakeMatrix<const float>(device.Upload(noise), rows, num_experts),
                                 .seed = seed,
                                 .first_token = first_token});
  return device.Download(data, logits.size());
}

// Mean, spread and independence of the noise: with softplus(0) = ln 2 a logit of 0 becomes ln 2 times a standard normal
// number. Of n of them the mean has a standard error of 1 / sqrt(n), the mean square one of sqrt(2 / n), and the mean
// product of neighbours one of 1 / sqrt(n): six of those are never exceeded by chance.
TEST(AddGateNoise, IsNormalAndScaledBySoftplus) {
  constexpr int64_t kTokens = 500, kExperts = 40;
  const std::vector<float> zeros(kTokens * kExperts);
  const std::vector<float> got = WithNoise(zeros, zeros, kExperts, 7, 0, ReferenceOptions());
  const double n = static_cast<double>(got.size());
  double sum = 0, squares = 0, across = 0, down = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    const double z = got[i] / std::log(2.0);
    sum += z;
    squares += z * z;
    if (i >= 1) across += z * got[i - 1] / std::log(2.0);
    if (i >= kExperts) down += z * got[i - kExperts] / std::log(2.0);
  }
  EXPECT_NEAR(sum / n, 0, 6 / std::sqrt(n));
  EXPECT_NEAR(squares / n, 1, 6 * std::sqrt(2 / n));
  EXPECT_NEAR(across / n, 0, 6 / std::sqrt(n));
  EXPECT_NEAR(down / n, 0, 6 / std::sqrt(n));
  // The same numbers, times softplus(3) = ln(1 + e^3); each value is rounded once to f32.
  const std::vector<float> wide =
      WithNoise(zeros, std::vector<float>(zeros.size(), 3), kExperts, 7, 0, ReferenceOptions());
  const double ratio = std::log1p(std::exp(3.0)) / std::log(2.0);
  for (size_t i = 0; i < got.size(); ++i) ASSERT_NEAR(wide[i], got[i] * ratio, std::abs(wide[i]) * 3 * 0x1p-24);
}

TEST(AddGateNoise, ExtremeNoiseLogits) {
  const std::vector<float> logits = {1, 2, 3}, none = {-200, -200, -200}, much = {200, 200, 200};
  EXPECT_EQ(WithNoise(logits, none, 3, 1, 0, ReferenceOptions()), logits);  // e^-200 is far below a rounding
  for (const float l : WithNoise(logits, much, 3, 1, 0, ReferenceOptions())) EXPECT_TRUE(std::isfinite(l));
}

TEST(AddGateNoise, DependsOnSeedTokenAndExpertAlone) {
  std::mt19937 random(kSeed);
  constexpr int64_t kTokens = 30, kExperts = 7;
  const std::vector<float> logits = RandomFloats(kTokens * kExperts, random),
                           noise = RandomFloats(kTokens * kExperts, random);
  const std::vector<float> want = WithNoise(logits, noise, kExperts, 5, 100, ReferenceOptions());
  for (const CpuDeviceOptions& options : FastDevices()) {
    EXPECT_TRUE(SameBytes(WithNoise(logits, noise, kExperts, 5, 100, options), want));
    EXPECT_TRUE(WithNoise({}, {}, kExperts, 5, 100, options).empty());
  }
  // The last ten tokens, by themselves, as another rank would have them.
  const auto tail = [&](const std::vector<float>& x) { return std::vector<float>(x.begin() + 20 * kExperts, x.end()); };
  EXPECT_TRUE(SameBytes(WithNoise(tail(logits), tail(noise), kExperts, 5, 120, ReferenceOptions()), tail(want)));
  EXPECT_FALSE(SameBytes(WithNoise(logits, noise, kExperts, 6, 100, ReferenceOptions()), want));
}

// ---- expert choice ----

struct Chosen {
  std::vector<int32_t> idx;
  std::vector<float> weight;
  std::vector<uint8_t> bad;
};

Chosen Choose(const std::vector<float>& logits, int64_t num_experts, int64_t capacity,
              const CpuDeviceOptions& options) {
  TestDevice device(options);
  const auto rows = static_cast<int64_t>(logits.size()) / num_experts;
  ExpertChoiceArgs args{.logits = MakeMatrix<const float>(device.Upload(logits), rows, num_experts),
                        .capacity = capacity};
  int32_t* idx = device.Upload(std::vector<int32_t>(logits.size(), 77));
  float* weight = device.Upload(std::vector<float>(logits.size(), 77));
  args.out = {MakeMatrix<int32_t>(idx, rows, num_experts), MakeMatrix<float>(weight, rows, num_experts)};
  args.bad_tokens = device.Upload(std::vector<uint8_t>(rows, 9));
  ExpertChoice(device.stream(), args);
  return {device.Download(idx, logits.size()), device.Download(weight, logits.size()),
          device.Download(args.bad_tokens, rows)};
}

// By hand: scores of three tokens over two experts; expert 0 takes the first two, expert 1 the last two.
TEST(ExpertChoice, EachExpertTakesItsBestTokens) {
  const float l = std::log(3.0f);
  const Chosen got = Choose({l, 0, 0, 0, 0, l}, 2, 2, ReferenceOptions());
  EXPECT_EQ(got.idx, (std::vector<int32_t>{0, -1, 0, 1, 1, -1}));
  const float want[] = {0.75f, 0, 0.5f, 0.5f, 0.75f, 0};
  for (int i = 0; i < 6; ++i) EXPECT_NEAR(got.weight[i], want[i], 4 * 0x1p-24) << i;
  EXPECT_EQ(got.bad, (std::vector<uint8_t>{9, 9, 9}));
}

TEST(ExpertChoice, TiesGoToTheLowerTokenAndBadTokensToNobody) {
  std::vector<float> logits(5 * 3, 0.0f);
  logits[3 + 1] = std::numeric_limits<float>::quiet_NaN();
  logits[2 * 3] = std::numeric_limits<float>::infinity();  // its softmax has no value
  const Chosen got = Choose(logits, 3, 2, ReferenceOptions());
  EXPECT_EQ(got.idx, (std::vector<int32_t>{0, 1, 2, -1, -1, -1, -1, -1, -1, 0, 1, 2, -1, -1, -1}));
  EXPECT_EQ(got.bad, (std::vector<uint8_t>{9, 1, 1, 9, 9}));
  EXPECT_EQ(Choose(logits, 3, 0, ReferenceOptions()).idx, std::vector<int32_t>(15, -1));
}

// Against the definition: an expert's tokens are those that fewer than `capacity` others come before.
TEST(ExpertChoice, FollowsItsDefinitionOnEveryDevice) {
  std::mt19937 random(kSeed);
  for (const auto& [num_tokens, num_experts, capacity] :
       {std::tuple<int64_t, int64_t, int64_t>{0, 4, 1}, {1, 1, 1}, {3, 5, 2}, {40, 7, 12}, {17, 33, 4}, {9, 16, 100}}) {
    std::vector<float> logits = RandomFloats(num_tokens * num_experts, random, 2.0f);
    for (float& l : logits) l = std::round(l * 2) / 2;  // ties
    const Chosen got = Choose(logits, num_experts, capacity, ReferenceOptions());
    std::vector<float> scores(logits.size());  // of those that were chosen
    std::vector<double> exact(logits.size());
    // As router_test: 4 u of an exponential and 16 u of its argument, twice, E / 16 + 4 sums, one quotient.
    const double bound = (40 + static_cast<double>(num_experts) / 16 + 5) * 0x1p-24;
    for (int64_t t = 0; t < num_tokens; ++t) {
      double sum = 0;
      for (int64_t e = 0; e < num_experts; ++e) sum += std::exp(static_cast<double>(logits[t * num_experts + e]));
      for (int64_t e = 0; e < num_experts; ++e) {
        exact[t * num_experts + e] = std::exp(static_cast<double>(logits[t * num_experts + e])) / sum;
      }
      for (int64_t k = 0; k < num_experts && got.idx[t * num_experts + k] >= 0; ++k) {
        const int64_t i = t * num_experts + k, e = got.idx[i];
        if (k > 0) {
          ASSERT_GT(e, got.idx[i - 1]);
        }
        scores[t * num_experts + e] = got.weight[i];
        ASSERT_NEAR(got.weight[i], exact[t * num_experts + e], exact[t * num_experts + e] * bound);
      }
    }
    for (int64_t e = 0; e < num_experts; ++e) {
      int64_t num_taken = 0;
      float worst = std::numeric_limits<float>::infinity();
      for (int64_t t = 0; t < num_tokens; ++t) {
        const float score = scores[t * num_experts + e];
        num_taken += score > 0 ? 1 : 0;
        if (score > 0) worst = std::min(worst, score);
      }
      ASSERT_EQ(num_taken, std::min(capacity, num_tokens)) << e;
      for (int64_t t = 0; t < num_tokens; ++t) {
        if (scores[t * num_experts + e] == 0) {
          ASSERT_LE(exact[t * num_experts + e], worst * (1 + 2 * bound)) << e;
        }
      }
    }
    for (const CpuDeviceOptions& options : FastDevices()) {
      const Chosen fast = Choose(logits, num_experts, capacity, options);
      EXPECT_TRUE(SameBytes(fast.idx, got.idx));
      EXPECT_TRUE(SameBytes(fast.weight, got.weight));
    }
  }
}

TEST(ExpertChoice, CapacityIsRoundedUp) {
  EXPECT_EQ(ExpertChoiceCapacity(512, 8, 64), 64);
  EXPECT_EQ(ExpertChoiceCapacity(1, 2, 64), 1);
  EXPECT_EQ(ExpertChoiceCapacity(10, 3, 7), 5);
  EXPECT_EQ(ExpertChoiceCapacity(0, 3, 7), 0);
}

// ---- hash ----

TEST(HashRoute, TheIdSaysWhere) {
  const std::vector<int32_t> table = {2, 0, 1, 1};
  for (const CpuDeviceOptions& options : FastDevices()) {
    TestDevice device(options);
    int32_t* idx = device.Upload(std::vector<int32_t>(5, 77));
    float* weight = device.Upload(std::vector<float>(5, 77));
    HashRoute(device.stream(), {.ids = device.Upload(std::vector<int32_t>{3, 0, 0, 1, 2}),
                                .table = device.Upload(table),
                                .out = {MakeMatrix<int32_t>(idx, 5, 1), MakeMatrix<float>(weight, 5, 1)}});
    EXPECT_EQ(device.Download(idx, 5), (std::vector<int32_t>{1, 2, 2, 0, 1}));
    EXPECT_EQ(device.Download(weight, 5), std::vector<float>(5, 1.0f));
  }
}

TEST(HashRoute, BalancedTable) {
  // Falling: id 3 (9) to 0, id 1 (5) to 1, id 0 (4) to 2, id 4 (4) to 2's 4 < 1's 5, id 2 (1) to 1.
  EXPECT_EQ(BalancedHashTable({4, 5, 1, 9, 4}, 3), (std::vector<int32_t>{2, 1, 1, 0, 2}));
  EXPECT_EQ(BalancedHashTable(std::vector<int64_t>(7, 0), 3), (std::vector<int32_t>{0, 1, 2, 0, 1, 2, 0}));
  EXPECT_TRUE(BalancedHashTable({}, 3).empty());
  std::mt19937 random(kSeed);
  std::vector<int64_t> counts(1000), load(13);
  for (int64_t& c : counts) c = static_cast<int64_t>(random() % 100);
  const std::vector<int32_t> table = BalancedHashTable(counts, 13);
  for (size_t id = 0; id < counts.size(); ++id) load[static_cast<size_t>(table[id])] += counts[id];
  // Whoever is given an id has the smallest load then, so loads differ by at most the largest count.
  EXPECT_LE(*std::max_element(load.begin(), load.end()) - *std::min_element(load.begin(), load.end()), 99);
}

}  // namespace
}  // namespace tokenferry

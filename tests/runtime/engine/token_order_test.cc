// The sampler against a plain reference that sorts the vocabulary: the same choices, for every shape of logits.
#include "runtime/engine/token_order.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <numeric>
#include <random>

#include "core/device/cpu_device.h"
#include "runtime/engine/sampler.h"

namespace tokenferry {
namespace {

constexpr unsigned kSeed = 20261128;

// Sorts; adds up from the front.
class SortedReference {
 public:
  SortedReference(const std::vector<float>& logits, double temperature) {
    const double largest = *std::max_element(logits.begin(), logits.end());
    for (const float logit : logits) {
      const double x = (logit - largest) / temperature;
      weights_.push_back(static_cast<uint64_t>(std::exp(x) * std::ldexp(1.0, TokenOrder::kWeightBits) + 0.5));
    }
    order_.resize(logits.size());
    std::iota(order_.begin(), order_.end(), 0);
    std::stable_sort(order_.begin(), order_.end(), [&](int a, int b) { return logits[a] > logits[b]; });
  }

  int32_t Choose(const SamplingParams& p, int64_t position) const {
    std::vector<int32_t> kept = order_;
    if (p.top_k > 0 && p.top_k < static_cast<int32_t>(kept.size())) kept.resize(p.top_k);
    if (p.top_p < 1) kept.resize(CountToWeigh(kept, std::ceil(p.top_p * static_cast<double>(SumOf(kept)))));
    while (static_cast<double>(weights_[kept.back()]) < std::ceil(p.min_p * static_cast<double>(weights_[kept[0]]))) {
      kept.pop_back();
    }
    const double drawn = std::floor(CounterUniform(p.seed, position) * static_cast<double>(SumOf(kept))) + 1;
    return kept[CountToWeigh(kept, drawn) - 1];
  }

 private:
  uint64_t SumOf(const std::vector<int32_t>& tokens) const {
    uint64_t sum = 0;
    for (const int32_t token : tokens) sum += weights_[token];
    return sum;
  }
  size_t CountToWeigh(const std::vector<int32_t>& tokens, double weight) const {
    uint64_t sum = 0;
    for (size_t i = 0; i < tokens.size(); ++i) {
      sum += weights_[tokens[i]];
      if (static_cast<double>(sum) >= weight) return i + 1;
    }
    return tokens.size();
  }

  std::vector<uint64_t> weights_;
  std::vector<int32_t> order_;
};

// Logits as models give them, flat ones, steep ones, many equal ones, and ones that are ruled out.
std::vector<std::vector<float>> Shapes(size_t size, std::mt19937_64& random) {
  std::vector<std::vector<float>> shapes;
  for (const float spread : {3.0f, 1e-4f, 40.0f}) {
    std::normal_distribution<float> normal(0, spread);
    std::vector<float>& logits = shapes.emplace_back(size);
    for (float& logit : logits) logit = normal(random);
  }
  std::vector<float>& coarse = shapes.emplace_back(size);
  for (float& logit : coarse) logit = static_cast<float>(random() % 5);
  shapes.emplace_back(size, 1.5f);
  std::vector<float>& masked = shapes.emplace_back(size, -std::numeric_limits<float>::infinity());
  for (size_t i = 0; i < size; i += 3) masked[i] = static_cast<float>(random() % 1000) * 1e-2f;
  // Most of the range between the largest two: all others share a bucket again and again.
  std::vector<float>& skewed = shapes.emplace_back(size);
  for (size_t i = 0; i < size; ++i) skewed[i] = -std::ldexp(1.0f, 4 - static_cast<int>(random() % 100));
  return shapes;
}

TEST(Sampler, ChoosesAsASortedReferenceDoes) {
  SCOPED_TRACE(testing::Message() << "seed " << kSeed);
  std::mt19937_64 random(kSeed);
  Sampler sampler;
  for (const size_t size : {1u, 2u, 47u, 49u, 1031u, 20011u}) {
    int shape_idx = -1;
    for (const std::vector<float>& logits : Shapes(size, random)) {
      SCOPED_TRACE(testing::Message() << size << " tokens, shape " << ++shape_idx);
      for (const double temperature : {0.3, 1.0, 2.5}) {
        const SortedReference reference(logits, temperature);
        for (const auto& [top_k, top_p, min_p] : std::vector<std::tuple<int, double, double>>{
                 {0, 1, 0}, {1, 1, 0}, {40, 1, 0}, {0, 0.9, 0}, {0, 1, 0.05}, {50, 0.8, 0.1}, {5000, 1 - 1e-9, 1e-9}}) {
          SamplingParams p{.temperature = temperature, .top_k = top_k, .top_p = top_p, .min_p = min_p};
          std::vector<int32_t> chosen, wanted;
          for (int i = 0; i < (size > 2000 ? 8 : 40); ++i) {
            p.seed = random();
            chosen.push_back(sampler.Sample(logits, p, {.position = i})->token);
            wanted.push_back(reference.Choose(p, i));
          }
          ASSERT_EQ(std::memcmp(chosen.data(), wanted.data(), chosen.size() * sizeof(int32_t)), 0)
              << "temperature " << temperature << ", top-k " << top_k << ", top-p " << top_p << ", min-p " << min_p;
        }
      }
    }
  }
}

LogitSummary SummaryOf(const std::vector<float>& logits, int32_t num_candidates) {
  const std::unique_ptr<Device> device = CreateCpuDevice({});
  const std::unique_ptr<Stream> stream = *device->CreateStream();
  LogitSummary summary;
  const auto size = static_cast<int64_t>(logits.size());
  ScanLogits(*stream, {{logits.data(), 1, size, size}, &num_candidates, &summary});
  EXPECT_TRUE(stream->Synchronize().ok());
  return summary;
}

// What a GPU tells of its logits is enough for greedy and top-k, to the last bit of what is reported.
TEST(Sampler, ChoosesFromASummaryWhatItChoosesFromAllLogits) {
  SCOPED_TRACE(testing::Message() << "seed " << kSeed);
  std::mt19937_64 random(kSeed);
  Sampler sampler;
  for (const size_t size : {1u, 2u, 47u, 1024u, 1031u, 4099u}) {
    int shape_idx = -1;
    for (const std::vector<float>& logits : Shapes(size, random)) {
      SCOPED_TRACE(testing::Message() << size << " tokens, shape " << ++shape_idx);
      for (const auto& [temperature, top_k, top_p, min_p, num_top] :
           std::vector<std::tuple<double, int, double, double, int>>{{0, 0, 1, 0, 0},
                                                                     {0, 0, 1, 0, 20},
                                                                     {1, 1, 1, 0, 3},
                                                                     {1, 20, 0.9, 0, 5},
                                                                     {0.3, 64, 0.8, 0.1, 0},
                                                                     {2.5, 50, 1, 0.05, 20}}) {
        SamplingParams p{.temperature = temperature, .top_k = top_k, .top_p = top_p, .min_p = min_p};
        p.num_top_logprobs = num_top;
        const int num_candidates = Sampler::NumCandidates(p, {});
        ASSERT_EQ(num_candidates, std::max({1, top_k, num_top}));
        const LogitSummary summary = SummaryOf(logits, num_candidates);
        for (int i = 0; i < 20; ++i) {
          p.seed = random();
          const SampledToken want = *sampler.Sample(logits, p, {.position = i});
          const SampledToken got = *sampler.Sample(summary, p, {.position = i});
          ASSERT_EQ(got.token, want.token) << "temperature " << temperature << ", top-k " << top_k;
          ASSERT_EQ(got.logprob, want.logprob);
          ASSERT_EQ(got.top.size(), want.top.size());
          for (size_t k = 0; k < want.top.size(); ++k) {
            ASSERT_EQ(got.top[k].token, want.top[k].token);
            ASSERT_EQ(got.top[k].logprob, want.top[k].logprob);
          }
        }
      }
    }
  }
}

TEST(Sampler, NeedsAllLogitsForWhatIsNotAmongTheLikeliest) {
  const auto num_candidates = [](auto change, SamplingState state = {}) {
    SamplingParams p{.temperature = 1, .top_k = 5};
    change(p);
    return Sampler::NumCandidates(p, state);
  };
  const TokenCounts counts;
  const uint64_t all = ~uint64_t{0};
  EXPECT_EQ(num_candidates([](auto&) {}), 5);
  EXPECT_EQ(num_candidates([](auto& p) { p.top_k = 0; }), 0);
  EXPECT_EQ(num_candidates([](auto& p) { p.top_k = kMaxLogitCandidates + 1; }), 0);
  EXPECT_EQ(num_candidates([](auto& p) { p.logit_bias = {{3, -1}}; }), 0);
  EXPECT_EQ(num_candidates([](auto& p) { p.min_tokens = 2; }, {.num_generated = 1}), 0);
  EXPECT_EQ(num_candidates([](auto& p) { p.min_tokens = 2; }, {.num_generated = 2}), 5);
  EXPECT_EQ(num_candidates([](auto&) {}, {.counts = &counts}), 0);
  EXPECT_EQ(num_candidates([](auto&) {}, {.allowed = {&all, 1}}), 0);
}

TEST(Sampler, ASummaryNamesTheFirstBadLogit) {
  Sampler sampler;
  const float never = -std::numeric_limits<float>::infinity(), nan = std::numeric_limits<float>::quiet_NaN();
  for (const std::vector<float>& logits :
       {std::vector<float>{1, 2, nan, 3, -never}, {1, -never, nan}, {never, never, never}, {-never}}) {
    const absl::Status want = sampler.Sample(logits, {}, {.position = 4}).status();
    EXPECT_FALSE(want.ok());
    EXPECT_EQ(sampler.Sample(SummaryOf(logits, 1), {}, {.position = 4}).status(), want);
  }
}

// Every place, also the first and the last: by weight and by count.
TEST(TokenOrder, FindsEveryPlace) {
  std::mt19937_64 random(kSeed);
  for (const std::vector<float>& logits : Shapes(301, random)) {
    std::vector<double> scores(logits.begin(), logits.end()), relative;
    const double largest = *std::max_element(scores.begin(), scores.end());
    for (const double score : scores) relative.push_back(std::exp(score - largest));
    std::vector<int32_t> order;
    for (int32_t i = 0; i < 301; ++i) {
      if (TokenOrder::Weight(relative[i]) > 0) order.push_back(i);
    }
    std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return scores[a] > scores[b]; });
    TokenOrder tokens;
    tokens.Assign(scores, relative);
    uint64_t sum = 0;
    for (size_t i = 0; i < order.size(); ++i) {
      EXPECT_EQ(tokens.AtWeight(sum + 1).token, order[i]) << i;
      sum += TokenOrder::Weight(relative[order[i]]);
      EXPECT_EQ(tokens.AtWeight(sum).token, order[i]) << i;
      EXPECT_EQ(tokens.AtCount(static_cast<int64_t>(i) + 1).token, order[i]) << i;
      EXPECT_EQ(tokens.AtCount(static_cast<int64_t>(i) + 1).weight, sum) << i;
    }
    EXPECT_EQ(tokens.total(), sum);
    EXPECT_EQ(tokens.AtCount(1000).weight, sum);
  }
}

TEST(SamplerKernels, AllInstructionSetsGiveTheSameBitsWithinFourUlp) {
  std::mt19937_64 random(kSeed);
  std::vector<double> scores(1031);
  for (double& score : scores)
    score = -std::ldexp(static_cast<double>(random() >> 11), static_cast<int>(random() % 12) - 54);
  scores[0] = 0, scores[1] = -std::numeric_limits<double>::infinity(), scores[2] = -708.5, scores[3] = -707.9;
  const auto size = static_cast<int64_t>(scores.size());
  std::vector<double> want(size);
  SamplerKernelsFor(Isa::kPortable).exp_scores(scores.data(), size, 0, 0.75, want.data());
  for (int64_t i = 0; i < size; ++i) {
    // Product and sums of the reduction round by at most 2^-53 * 0.35 each, the series adds 13 roundings that shrink
    // with r, and truncation is 1.7e-16: below 4 * 2^-52 together.
    const double exact = scores[i] / 0.75 < -708 ? 0 : std::exp(scores[i] / 0.75);
    EXPECT_NEAR(want[i], exact, exact * 0x1p-50) << scores[i];
  }
  std::vector<float> logits(scores.begin(), scores.end());
  for (const Isa isa : {Isa::kNeon, Isa::kAvx2, Isa::kAvx512}) {
    if ((SupportedIsas() & (1u << static_cast<int>(isa))) == 0) continue;
    SCOPED_TRACE(IsaName(isa));
    const SamplerKernels& kernels = SamplerKernelsFor(isa);
    std::vector<double> got(size), wide(size);
    kernels.exp_scores(scores.data(), size, 0, 0.75, got.data());
    EXPECT_EQ(std::memcmp(got.data(), want.data(), size * sizeof(double)), 0);
    for (const int64_t n : {int64_t{1}, int64_t{7}, int64_t{8}, int64_t{9}, size}) {
      const LogitScan scan = kernels.widen(logits.data() + 1, std::min(n, size - 1), wide.data());
      EXPECT_TRUE(scan.all_below_infinity);
      EXPECT_EQ(scan.largest, *std::max_element(logits.begin() + 1, logits.begin() + 1 + std::min(n, size - 1)));
      EXPECT_EQ(wide[0], logits[1]);
      EXPECT_EQ(kernels.largest(scores.data() + 1, std::min(n, size - 1)),
                *std::max_element(scores.begin() + 1, scores.begin() + 1 + std::min(n, size - 1)));
    }
  }
}

}  // namespace
}  // namespace tokenferry

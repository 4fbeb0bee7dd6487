#include "runtime/engine/sampler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace tokenferry {
namespace {

using testing::HasSubstr;

struct History {
  std::vector<int32_t> prompt, output;
};

TokenCounts CountsOf(const History& h) {
  TokenCounts counts;
  counts.AddPrompt(h.prompt);
  for (const int32_t token : h.output) counts.AddOutput(token);
  return counts;
}

SampledToken Ok(const std::vector<float>& logits, const SamplingParams& p, const History& h = {},
                int64_t position = 7) {
  static Sampler sampler;
  const TokenCounts counts = CountsOf(h);
  const auto sampled = sampler.Sample(
      logits, p, {.counts = &counts, .position = position, .num_generated = static_cast<int64_t>(h.output.size())});
  EXPECT_TRUE(sampled.ok()) << sampled.status();
  return *sampled;
}

absl::Status Refusal(const std::vector<float>& logits, const SamplingParams& p, SamplingState state = {}) {
  state.position = 9;
  return Sampler().Sample(logits, p, state).status();
}

// How often each token is drawn over many positions.
std::vector<double> Frequencies(const std::vector<float>& logits, SamplingParams p, int draws = 20000) {
  std::vector<double> counts(logits.size());
  for (int i = 0; i < draws; ++i) counts[Ok(logits, p, {}, i).token] += 1.0 / draws;
  return counts;
}

TEST(Sampler, GreedyTakesTheLargestAndTheLowerOfEquals) {
  EXPECT_EQ(Ok({1, 5, 2, 5}, {}).token, 1);
  EXPECT_EQ(Ok({-3}, {}).token, 0);
}

TEST(Sampler, LogprobIsOfTheRawSoftmax) {
  SamplingParams p;
  p.temperature = 2;
  const SampledToken t = Ok({0, std::log(3.0f)}, p);
  EXPECT_NEAR(t.logprob, std::log(t.token == 1 ? 0.75 : 0.25), 1e-6);
}

TEST(Sampler, DivergenceOfTwoSoftmaxes) {
  Sampler sampler;
  const auto divergence = [&](const std::vector<float>& p, const std::vector<float>& q) {
    const double p_sum = sampler.LogSumExp(p, 1).value(), q_sum = sampler.LogSumExp(q, 1).value();
    return sampler.Divergence(p, p_sum, q, q_sum);
  };
  const float never = -std::numeric_limits<float>::infinity();
  // 0.75 ln(0.75 / 0.5) + 0.25 ln(0.25 / 0.5). ln 3 as f32 is off by at most 2^-24.
  EXPECT_NEAR(divergence({std::log(3.0f), 0}, {2, 2}), 0.1308120359411, 1e-7);
  // What p never does costs nothing, what q never does everything.
  EXPECT_NEAR(divergence({1, never}, {1, 1}), std::log(2.0), 1e-12);
  EXPECT_EQ(divergence({1, 1}, {1, never}), std::numeric_limits<double>::infinity());
  EXPECT_EQ(divergence({never, 1}, {never, 1}), 0);
  // A vocabulary that is no multiple of a vector, against the definition.
  std::vector<float> p, q;
  for (int i = 0; i < 1003; ++i) {
    p.push_back(20 * std::sin(static_cast<float>(i)));
    q.push_back(p.back() + std::cos(static_cast<float>(3 * i)));
  }
  EXPECT_EQ(divergence(p, p), 0);
  double p_total = 0, q_total = 0, expected = 0;
  for (size_t i = 0; i < p.size(); ++i) p_total += std::exp(double{p[i]}), q_total += std::exp(double{q[i]});
  for (size_t i = 0; i < p.size(); ++i) {
    const double p_i = std::exp(double{p[i]}) / p_total, q_i = std::exp(double{q[i]}) / q_total;
    expected += p_i * std::log(p_i / q_i);
  }
  // Exponentials within 4 ulp and sums of 1003 terms of magnitude up to 21 p_i: below 21 * 1003 * 2^-52.
  EXPECT_NEAR(divergence(p, q), expected, 5e-12);
}

TEST(Sampler, DrawsFollowTheSoftmaxAtTheTemperature) {
  SamplingParams p;
  p.temperature = 0.5;
  // Squared odds 1 : 4 : 9. With 20,000 draws four standard deviations of a frequency are at most 0.0142.
  const auto f = Frequencies({0, std::log(2.0f), std::log(3.0f)}, p);
  EXPECT_NEAR(f[0], 1.0 / 14, 0.0142);
  EXPECT_NEAR(f[1], 4.0 / 14, 0.0142);
  EXPECT_NEAR(f[2], 9.0 / 14, 0.0142);
}

TEST(Sampler, TopKTopPAndMinPCutTheTail) {
  const std::vector<float> logits = {std::log(0.1f), std::log(0.4f), std::log(0.2f), std::log(0.3f)};
  SamplingParams p;
  p.temperature = 1;
  p.top_k = 2;
  auto f = Frequencies(logits, p);
  EXPECT_EQ(f[0] + f[2], 0);
  EXPECT_NEAR(f[1], 4.0 / 7, 0.0142);
  p.top_k = 0;
  p.top_p = 0.69;  // 0.4 + 0.3 reaches it
  f = Frequencies(logits, p);
  EXPECT_EQ(f[0] + f[2], 0);
  EXPECT_GT(f[3], 0);
  p.top_p = 1;
  p.min_p = 0.45;  // 0.2 is at least 0.45 * 0.4, 0.1 is not
  f = Frequencies(logits, p);
  EXPECT_EQ(f[0], 0);
  EXPECT_GT(f[2], 0);
}

TEST(Sampler, RepetitionPenaltyLooksAtPromptAndOutput) {
  SamplingParams p;
  p.repetition_penalty = 2;
  const History history{{0}, {1}};
  EXPECT_EQ(Ok({3, 3.5f, 2}, p, history).token, 2);        // 1.5, 1.75, 2
  EXPECT_EQ(Ok({-1, -1.5f, -2.5f}, p, history).token, 0);  // -2, -3, -2.5
}

TEST(Sampler, PresencePenaltyLooksAtOutputOnceForEachToken) {
  SamplingParams p;
  p.presence_penalty = 1;
  const History history{{0}, {1, 1}};
  EXPECT_EQ(Ok({3, 3.5f, 2}, p, history).token, 0);  // 3, 2.5, 2: the prompt's token 0 is left alone
  EXPECT_EQ(Ok({1, 3.5f, 2}, p, history).token, 1);  // 2.5, though token 1 occurs twice
}

TEST(Sampler, FrequencyPenaltyCountsTheOutput) {
  SamplingParams p;
  p.frequency_penalty = 1;
  EXPECT_EQ(Ok({3, 4.5f, 2}, p, {{0}, {1, 1}}).token, 0);  // 3, 2.5, 2
  EXPECT_EQ(Ok({3, 4.5f, 2}, p, {{1}, {1}}).token, 1);     // 3, 3.5, 2: once in the output
}

TEST(Sampler, LogitBiasComesBeforeThePenalties) {
  SamplingParams p;
  p.logit_bias = {{2, 2.0}, {0, -100}, {1 << 20, 5}};
  EXPECT_EQ(Ok({3, 3.5f, 2}, p).token, 2);  // -97, 3.5, 4
  p.repetition_penalty = 2;
  EXPECT_EQ(Ok({3, 3.5f, 2}, p, {{2}, {}}).token, 1);  // -97, 3.5, (2 + 2) / 2
}

TEST(Sampler, StopTokensWaitForMinTokens) {
  SamplingParams p;
  p.stop_token_ids = {1};
  p.min_tokens = 2;
  EXPECT_EQ(Ok({3, 3.5f, 2}, p, {{5}, {4}}).token, 0);     // one has been generated
  EXPECT_EQ(Ok({3, 3.5f, 2}, p, {{5}, {4, 4}}).token, 1);  // two
  p.min_tokens = 0;
  EXPECT_EQ(Ok({3, 3.5f, 2}, p).token, 1);
}

TEST(Sampler, OnlyAllowedTokensMayCome) {
  std::vector<float> logits(130);
  for (int i = 0; i < 130; ++i) logits[i] = static_cast<float>(i);
  SamplingParams p;
  const std::vector<uint64_t> allowed = {1u << 5, 1u << 3, 0};
  Sampler sampler;
  for (const double temperature : {0.0, 100.0}) {
    p.temperature = temperature;
    for (int position = 0; position < 20; ++position) {
      const auto sampled = sampler.Sample(logits, p, {.position = position, .allowed = allowed});
      ASSERT_TRUE(sampled.ok()) << sampled.status();
      EXPECT_TRUE(sampled->token == 5 || sampled->token == 67) << sampled->token;
      EXPECT_NEAR(sampled->logprob, sampled->token - 129.458675, 1e-4);  // log(1 - 1/e): of the raw logits
    }
  }
  EXPECT_THAT(std::string(Refusal(logits, p, {.allowed = std::vector<uint64_t>{0, 0, 0}}).message()),
              HasSubstr("no token may come at position 9"));
}

TEST(Sampler, ReportsTheLikeliestTokens) {
  SamplingParams p;
  p.num_top_logprobs = 3;
  p.logit_bias = {{3, 50}};  // changes the choice, not what is reported
  const SampledToken t = Ok({1, 5, 2, -1, 5, 2}, p);
  EXPECT_EQ(t.token, 3);
  ASSERT_EQ(t.top.size(), 3u);
  EXPECT_EQ(t.top[0].token, 1);
  EXPECT_EQ(t.top[1].token, 4);
  EXPECT_EQ(t.top[2].token, 2);
  EXPECT_EQ(t.top[0].logprob, t.top[1].logprob);
  EXPECT_NEAR(t.top[2].logprob - t.logprob, 3, 1e-6);
  p.num_top_logprobs = 20;
  EXPECT_EQ(Ok({1, 5}, p).top.size(), 2u);
}

TEST(Sampler, TheDrawDependsOnSeedAndPositionAlone) {
  const std::vector<float> logits(100, 0.0f);
  SamplingParams p;
  p.temperature = 1;
  p.seed = 5;
  const int32_t first = Ok(logits, p, {}, 3).token;
  EXPECT_EQ(Ok(logits, p, {{1, 2}, {3}}, 3).token, first);
  int other_position = 0, other_seed = 0;
  for (int i = 0; i < 20; ++i) other_position += Ok(logits, p, {}, 100 + i).token != first;
  for (int i = 0; i < 20; ++i) {
    p.seed = 1000 + i;
    other_seed += Ok(logits, p, {}, 3).token != first;
  }
  EXPECT_GT(other_position, 10);
  EXPECT_GT(other_seed, 10);
}

TEST(Sampler, CounterUniformIsUniform) {
  double sum = 0, squares = 0;
  const int n = 100000;
  for (int i = 0; i < n; ++i) {
    const double u = CounterUniform(42, i);
    ASSERT_GE(u, 0);
    ASSERT_LT(u, 1);
    sum += u;
    squares += u * u;
  }
  // Standard error of the mean is 0.289 / sqrt(n) = 0.0009; five of them.
  EXPECT_NEAR(sum / n, 0.5, 0.0046);
  EXPECT_NEAR(squares / n, 1.0 / 3, 0.0047);
}

TEST(Sampler, RefusesNaNNamingTheToken) {
  std::vector<float> logits(37, 0.0f);
  for (const size_t at : {1u, 8u, 35u, 36u}) {  // in a vector, and behind the last one
    auto broken = logits;
    broken[at] = std::numeric_limits<float>::quiet_NaN();
    EXPECT_THAT(std::string(Refusal(broken, {}).message()),
                HasSubstr(absl::StrCat("token ", at, " at position 9 is NaN")));
  }
}

TEST(Sampler, RefusesInfinityAndNothingToChooseFrom) {
  const float inf = std::numeric_limits<float>::infinity();
  SamplingParams warm;
  warm.temperature = 1;
  for (const SamplingParams& p : {SamplingParams(), warm}) {
    EXPECT_THAT(std::string(Refusal({0, inf}, p).message()), HasSubstr("token 1 at position 9 is infinite"));
    EXPECT_THAT(std::string(Refusal({-inf, -inf}, p).message()), HasSubstr("all logits at position 9 are -infinity"));
    EXPECT_EQ(Ok({-inf, 2, -inf}, p).token, 1);  // masked tokens
  }
}

TEST(Sampler, TheSmallestParametersLeaveTheLikeliestToken) {
  SamplingParams p;
  p.temperature = kMinTemperature;
  p.top_p = kMinTopP;
  p.repetition_penalty = kMinRepetitionPenalty;
  ASSERT_TRUE(Validate(p).ok());
  // Logits as large as f32 has them: divided by the temperature as they are, they would be infinite.
  const float huge = std::numeric_limits<float>::max();
  for (int position = 0; position < 50; ++position) {
    EXPECT_EQ(Ok({-huge, 0.5f * huge, huge, 0}, p, {}, position).token, 2);
    EXPECT_EQ(Ok({-huge, -0.75f * huge}, p, {}, position).token, 1);
  }
}

TEST(Sampler, ValidateNamesParameterValueAndRange) {
  const auto message = [](auto set) {
    SamplingParams p;
    set(p);
    return std::string(Validate(p).message());
  };
  EXPECT_TRUE(Validate({}).ok());
  for (const double v : {1e-308, 1e-320, 1e-6, 100.5, HUGE_VAL}) {
    EXPECT_THAT(message([v](auto& p) { p.temperature = v; }), HasSubstr("must be 0, or from 1e-05 to 100")) << v;
    EXPECT_THAT(message([v](auto& p) { p.repetition_penalty = v; }), HasSubstr("must be from 0.01 to 100")) << v;
  }
  EXPECT_THAT(message([](auto& p) { p.top_p = 1e-320; }), HasSubstr("top-p is 9.99989e-321, but must be from 1e-09"));
  EXPECT_THAT(message([](auto& p) { p.min_p = 1e-320; }), HasSubstr("min-p is"));
  EXPECT_THAT(message([](auto& p) { p.presence_penalty = 1e-320; }), HasSubstr("presence-penalty is"));
  EXPECT_THAT(message([](auto& p) { p.temperature = -1; }), HasSubstr("temperature is -1"));
  EXPECT_THAT(message([](auto& p) { p.temperature = std::nan(""); }), HasSubstr("temperature is nan"));
  EXPECT_THAT(message([](auto& p) { p.top_k = -2; }), HasSubstr("top-k is -2"));
  EXPECT_THAT(message([](auto& p) { p.top_p = 0; }), HasSubstr("top-p is 0"));
  EXPECT_THAT(message([](auto& p) { p.min_p = 1.5; }), HasSubstr("min-p is 1.5"));
  EXPECT_THAT(message([](auto& p) { p.repetition_penalty = 0; }), HasSubstr("repetition-penalty is 0"));
  EXPECT_THAT(message([](auto& p) { p.presence_penalty = 101; }), HasSubstr("presence-penalty is 101"));
  EXPECT_THAT(message([](auto& p) { p.frequency_penalty = -101; }), HasSubstr("frequency-penalty is -101"));
  EXPECT_THAT(message([](auto& p) { p.logit_bias = {{7, 100.5}}; }), HasSubstr("logit-bias of token 7 is 100.5"));
  EXPECT_THAT(message([](auto& p) { p.logit_bias = {{7, 1}, {8, 1}, {7, 2}}; }), HasSubstr("token 7 twice"));
  EXPECT_THAT(message([](auto& p) { p.logit_bias.resize(1025); }), HasSubstr("is 1025, but must be from 0 to 1024"));
  EXPECT_THAT(message([](auto& p) { p.stop_token_ids.resize(1025); }), HasSubstr("stop tokens is 1025"));
  EXPECT_THAT(message([](auto& p) { p.min_tokens = -1; }), HasSubstr("min-tokens is -1"));
  EXPECT_THAT(message([](auto& p) { p.num_top_logprobs = 21; }), HasSubstr("top-logprobs is 21"));
  EXPECT_THAT(message([](auto& p) { p.grammar = "x"; }), HasSubstr("a grammar of 1 bytes is no automaton"));
  SamplingParams p;
  p.logit_bias = {{10, 1}};
  EXPECT_TRUE(ValidateTokens(p, 11).ok());
  EXPECT_THAT(std::string(ValidateTokens(p, 10).message()), HasSubstr("logit-bias has token 10"));
}

}  // namespace
}  // namespace tokenferry

#include "runtime/engine/step_plan.h"

#include <gtest/gtest.h>

namespace tokenferry {
namespace {

StepPlan Example() {
  StepPlan plan;
  SamplingParams sampling;
  sampling.temperature = 0.25;
  sampling.seed = 1ull << 63;
  sampling.logit_bias = {{7, -1.5}, {2, 100}};
  sampling.stop_token_ids = {1, 2};
  sampling.min_tokens = 4;
  plan.started.push_back({3, RankId(2), {5, 0, 9}, 7, sampling, {4, 4}});
  plan.entries.push_back({3, RankId(2), Stack::kDecoder, 5, {9, 8, 7}, 2, {6, 1}, Want::kLogits, {8, 7}});
  plan.entries.back().trace = Wanted::kYes;
  plan.entries.push_back({4, RankId(3), Stack::kDecoder, 0, {1}, 0, {}, Want::kToken, {}, Wanted::kYes});
  plan.released = {1, 2};
  plan.kind = StepKind::kIdle;
  plan.stats = Wanted::kYes;
  return plan;
}

TEST(StepPlan, SurvivesTheWire) {
  const auto back = DecodeStepPlan(Encode(Example()));
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_EQ(back->started[0].blocks, (std::vector<int32_t>{5, 0, 9}));
  EXPECT_EQ(back->kind, StepKind::kIdle);
  EXPECT_EQ(back->stats, Wanted::kYes);
  EXPECT_EQ(back->started[0].sampling.seed, 1ull << 63);
  EXPECT_EQ(back->started[0].sampling.temperature, 0.25);
  ASSERT_EQ(back->started[0].sampling.logit_bias.size(), 2u);
  EXPECT_EQ(back->started[0].sampling.logit_bias[0].token, 7);
  EXPECT_EQ(back->started[0].sampling.logit_bias[0].bias, -1.5);
  EXPECT_EQ(back->started[0].sampling.stop_token_ids, (std::vector<int32_t>{1, 2}));
  EXPECT_EQ(back->entries[0].tokens, (std::vector<int32_t>{9, 8, 7}));
  EXPECT_EQ(back->started[0].cached_tokens, (std::vector<int32_t>{4, 4}));
  EXPECT_EQ(back->entries[0].first_block, 2);
  EXPECT_EQ(back->entries[0].blocks, (std::vector<int32_t>{6, 1}));
  EXPECT_EQ(back->entries[1].routing, Wanted::kYes);
  EXPECT_EQ(back->entries[0].trace, Wanted::kYes);
  EXPECT_EQ(back->entries[1].trace, Wanted::kNo);
  EXPECT_EQ(back->entries[0].want, Want::kLogits);
  EXPECT_EQ(back->entries[0].targets, (std::vector<int32_t>{8, 7}));
  EXPECT_EQ(back->entries[1].rank, RankId(3));
  EXPECT_EQ(back->released, (std::vector<int32_t>{1, 2}));
  EXPECT_EQ(Encode(*back), Encode(Example()));
}

TEST(StepPlan, AnEncodersEntrySurvivesTheWire) {
  StepPlan plan = Example();
  plan.entries[1].stack = Stack::kEncoder;
  const auto back = DecodeStepPlan(Encode(plan));
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_EQ(back->entries[0].stack, Stack::kDecoder);
  EXPECT_EQ(back->entries[1].stack, Stack::kEncoder);
}

TEST(StepPlan, CountsTokensPerRank) {
  EXPECT_EQ(Example().num_tokens(), 4);
  EXPECT_EQ(Example().max_tokens_per_rank(4), 3);
  EXPECT_EQ(StepPlan().max_tokens_per_rank(3), 0);
}

TEST(StepPlan, EveryTruncationAndExtensionIsRefused) {
  const std::string bytes = Encode(Example());
  for (size_t n = 0; n < bytes.size(); ++n) EXPECT_FALSE(DecodeStepPlan(bytes.substr(0, n)).ok()) << n;
  EXPECT_FALSE(DecodeStepPlan(bytes + '\0').ok());
}

TEST(StepPlan, ResultsSurviveTheWire) {
  EntryResult r;
  r.seq = 5;
  r.sampled = {17, -0.5f, {{17, -0.5f}, {3, -2.0f}}};
  r.logprobs = {-1, -2};
  r.top_logprobs = {{8, -0.25f}};
  r.logits = {0.1f, 0.2f, 0.3f};
  r.expert_idx = {1, -1};
  r.expert_weight = {0.75f, 0};
  r.hidden_states = {1.5f, -2.5f};
  r.router_logits = {0.5f};
  EntryResult failed;
  failed.error = absl::InternalError("logit of token 1 is NaN");
  const std::string bytes = Encode(RankResults{{r, failed}, {{{1, 2}, {3}, {4}, {5, 6}, {0.5}, 0.25}}});
  const auto back = DecodeResults(bytes);
  ASSERT_TRUE(back.ok()) << back.status();
  ASSERT_EQ(back->entries.size(), 2u);
  ASSERT_EQ(back->stats.size(), 1u);
  EXPECT_EQ(back->stats[0].bytes_sent_per_rank, (std::vector<int64_t>{5, 6}));
  EXPECT_EQ(back->stats[0].exchange_seconds, 0.25);
  EXPECT_EQ(back->entries[0].sampled.token, 17);
  ASSERT_EQ(back->entries[0].sampled.top.size(), 2u);
  EXPECT_EQ(back->entries[0].sampled.top[1].token, 3);
  EXPECT_TRUE(back->entries[0].error.ok());
  EXPECT_EQ(back->entries[1].error, failed.error);
  EXPECT_EQ(back->entries[0].logits, r.logits);
  EXPECT_EQ(back->entries[0].top_logprobs[0].token, 8);
  EXPECT_EQ(back->entries[0].expert_idx, r.expert_idx);
  EXPECT_EQ(back->entries[0].hidden_states, r.hidden_states);
  EXPECT_EQ(back->entries[0].router_logits, r.router_logits);
  for (size_t n = 0; n < bytes.size(); ++n) EXPECT_FALSE(DecodeResults(bytes.substr(0, n)).ok()) << n;
}

}  // namespace
}  // namespace tokenferry

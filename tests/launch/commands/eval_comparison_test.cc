#include "launch/commands/eval_comparison.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "tests/support/status_matchers.h"

namespace tokenferry {
namespace {

// Two MoE layers of 8 experts, of which a token chooses 2; 3 words.
ModelSpec Model() {
  ModelSpec model;
  model.vocab_size = 3;
  model.layers.resize(2);
  for (LayerSpec& layer : model.layers) layer.is_moe = true;
  model.moe.num_experts = 8;
  model.moe.router.top_k = 2;
  return model;
}

// Tokens `position`.. of prompt `seq`: logits [n, 3], choices [2 layers, n, 2].
SequenceUpdate Piece(int32_t seq, int64_t position, std::vector<float> logits, std::vector<int32_t> expert_idx) {
  SequenceUpdate update{.seq = seq, .position = position};
  update.result.logits = std::move(logits);
  update.result.expert_idx = std::move(expert_idx);
  return update;
}

TEST(EvalComparison, DroppedChoicesAreNoFlips) {
  EvalComparison comparison(Model(), Model(), {1, 2});
  // Layer 0: one of two choices was dropped; layer 1: none.
  ASSERT_OK(comparison.TakeReference(Piece(0, 0, {0, 0, 0}, {4, -1, 0, 1})));
  ASSERT_OK(comparison.TakeReference(Piece(1, 0, {0, 0, 0}, {4, 5, 0, 1})));
  ASSERT_OK(comparison.TakeReference(Piece(1, 1, {0, 0, 0}, {6, 7, 0, 1})));
  // 6 may be what was dropped: left out. 2 is a flip.
  ASSERT_OK(comparison.Take(Piece(0, 0, {0, 0, 0}, {4, 6, 1, 2})));
  // In another cut. Layer 0: [4, dropped], [7, 6]; layer 1: [0, 1], both dropped.
  ASSERT_OK(comparison.Take(Piece(1, 0, {0, 0, 0, 0, 0, 0}, {4, -1, 7, 6, 0, 1, -1, -1})));
  const auto json = comparison.Json();
  EXPECT_EQ(json["choices_by_layer"], (std::vector<int64_t>{4, 4}));
  EXPECT_EQ(json["flips_by_layer"], (std::vector<int64_t>{0, 1}));
  EXPECT_EQ(json["kl_most"], 0.0);
}

TEST(EvalComparison, DivergenceIsOfTheTokenAtItsPosition) {
  EvalComparison comparison(Model(), Model(), {2});
  const float three = std::log(3.0f);
  ASSERT_OK(comparison.TakeReference(Piece(0, 0, {0, 0, 0}, {0, 1, 0, 1})));
  ASSERT_OK(comparison.TakeReference(Piece(0, 1, {three, 0, 0}, {0, 1, 0, 1})));
  ASSERT_OK(comparison.Take(Piece(0, 0, {0, 0, 0, 0, 0, 0}, {0, 1, 0, 1, 0, 1, 0, 1})));
  // 0.6 ln(0.6 * 3) + 2 * 0.2 ln(0.2 * 3). ln 3 as f32 is off by at most 2^-24.
  EXPECT_NEAR(comparison.Json()["kl_most"].get<double>(), 0.1483417497, 1e-7);
  EXPECT_NEAR(comparison.Json()["kl_per_token"].get<double>(), 0.1483417497 / 2, 1e-7);
}

TEST(EvalComparison, ModelsThatRouteOtherwiseHaveNoFlips) {
  ModelSpec other = Model();
  other.moe.num_experts = 9;
  EvalComparison comparison(other, Model(), {1});
  ASSERT_OK(comparison.TakeReference(Piece(0, 0, {0, 0, 0}, {0, 1, 0, 8})));
  ASSERT_OK(comparison.Take(Piece(0, 0, {0, 0, 0}, {0, 1, 0, 1})));
  EXPECT_TRUE(comparison.Json()["flips_by_layer"].is_null());
  other.vocab_size = 4;
  EXPECT_ERROR(EvalComparison::Comparable(other, Model()), absl::StatusCode::kInvalidArgument, "of 4", "of 3");
}

TEST(EvalComparison, LogitsThatAreNoNumbers) {
  EvalComparison comparison(Model(), Model(), {1});
  const float nan = std::numeric_limits<float>::quiet_NaN();
  EXPECT_ERROR(comparison.TakeReference(Piece(0, 0, {0, nan, 0}, {0, 1, 0, 1})), absl::StatusCode::kInternal, "NaN");
}

// 3 logits, a sum and 2 layers of 2 choices: 12 + 8 + 16 bytes of a token.
TEST(EvalComparison, RefusesWhatMemoryDoesNotHold) {
  const std::vector<int64_t> prompts = {1 << 20, 2 << 20};
  const int64_t num_bytes = (int64_t{3} << 20) * 36;
  ASSERT_OK(EvalComparison::FitsMemory(Model(), prompts, num_bytes));
  EXPECT_ERROR(EvalComparison::FitsMemory(Model(), prompts, num_bytes - (1 << 20)),
               absl::StatusCode::kResourceExhausted, "3145728 tokens", "108.0 MiB", "107.0 MiB");
}

}  // namespace
}  // namespace tokenferry

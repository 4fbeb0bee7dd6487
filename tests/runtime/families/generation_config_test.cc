#include "runtime/model/generation_config.h"

#include <gtest/gtest.h>

#include <cstdlib>

#include "runtime/families/families.h"
#include "tests/support/checkpoint_writer.h"
#include "tests/support/status_matchers.h"

namespace tokenferry::testing {
namespace {

TEST(GenerationConfig, ReadsTheShippedModel) {
  const std::string dir = std::string(std::getenv("TF_SOURCE_DIR")) + "/models/ferry-tiny-v3";
  const auto model = LoadModelSpec(dir);
  ASSERT_OK(model);
  const auto generation = LoadGenerationConfig(dir, *model);
  ASSERT_OK(generation);
  EXPECT_EQ(generation->eos_token_ids, std::vector<int32_t>{1});
  EXPECT_EQ(generation->temperature, 0.6);
  EXPECT_EQ(generation->top_p, 0.95);
  EXPECT_EQ(generation->do_sample, true);
  EXPECT_FALSE(generation->top_k.has_value());
}

TEST(GenerationConfig, IsOptionalAndChecked) {
  TempDir dir;
  const ModelSpec model = SpecOf(TinyConfig());
  const auto absent = LoadGenerationConfig(dir.path(), model);
  ASSERT_OK(absent);
  EXPECT_EQ(absent->eos_token_ids, std::vector<int32_t>{1});
  EXPECT_FALSE(absent->temperature.has_value());
  const auto lists = ParseGenerationConfig(R"({"eos_token_id":[3,4],"temperature":0})", "g.json", model);
  ASSERT_OK(lists);
  EXPECT_EQ(lists->eos_token_ids, (std::vector<int32_t>{3, 4}));
  EXPECT_EQ(lists->temperature, 0);
  EXPECT_ERROR(ParseGenerationConfig(R"({"eos_token_id":37})", "g.json", model), kInvalid,
               "g.json:1:17: 'eos_token_id' is 37");
  EXPECT_ERROR(ParseGenerationConfig(R"({"temperature":-1})", "g.json", model), kInvalid, "'temperature' is -1");
  EXPECT_ERROR(ParseGenerationConfig(R"({"top_p":1.5})", "g.json", model), kInvalid, "'top_p' is 1.5");
  EXPECT_EQ(ParseGenerationConfig(R"({"top_p":0})", "g.json", model)->top_p, 0);
  const auto full = ParseGenerationConfig(R"({"do_sample":false,"top_k":50,"min_p":0.1,"repetition_penalty":1.05,
      "max_new_tokens":2048,"typical_p":0.5})",
                                          "g.json", model);
  ASSERT_OK(full);
  EXPECT_EQ(full->do_sample, false);
  EXPECT_EQ(full->top_k, 50);
  EXPECT_EQ(full->min_p, 0.1);
  EXPECT_EQ(full->repetition_penalty, 1.05);
  EXPECT_EQ(full->max_new_tokens, 2048);
  EXPECT_EQ(WarningOf(*full), "generation_config.json sets typical_p, which is ignored");
  const auto defaults = ParseGenerationConfig(
      R"({"typical_p":1.0,"suppress_tokens":null,"bad_words_ids":[],"no_repeat_ngram_size":0,"num_beams":4})", "g.json",
      model);
  EXPECT_EQ(WarningOf(*defaults), "");
  const auto more = ParseGenerationConfig(R"({"suppress_tokens":[1],"min_new_tokens":2})", "g.json", model);
  EXPECT_EQ(WarningOf(*more), "generation_config.json sets suppress_tokens, min_new_tokens, which are ignored");
  EXPECT_EQ(ParseGenerationConfig(R"({"top_k":-1})", "g.json", model)->top_k, 0);
  EXPECT_ERROR(ParseGenerationConfig(R"({"top_k":-2})", "g.json", model), kInvalid, "'top_k' is -2");
  EXPECT_ERROR(ParseGenerationConfig(R"({"do_sample":1})", "g.json", model), kInvalid, "'do_sample' is 1");
  EXPECT_ERROR(ParseGenerationConfig(R"({"repetition_penalty":0})", "g.json", model), kInvalid,
               "'repetition_penalty' is 0");
  EXPECT_ERROR(ParseGenerationConfig("x", "g.json", model), kInvalid, "g.json:1:1: is not JSON");
}

}  // namespace
}  // namespace tokenferry::testing

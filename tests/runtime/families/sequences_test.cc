// What sequences of single families need of the whole engine, and models that are others in disguise.
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "runtime/checkpoint/safetensors.h"
#include "runtime/checkpoint/safetensors_writer.h"
#include "runtime/families/families.h"
#include "tests/runtime/engine/engine_runner.h"
#include "tests/runtime/families/gguf_golden.h"
#include "tests/support/checkpoint_writer.h"

namespace tokenferry {
namespace {

// LongRoPE, with an original context between two requests for the same prompt: each gets what it gets alone, beside and
// after the other, preempted or not; and the two rotations are not the same.
TEST(LongRope, SequencesOfBothRotationsRunSideBySide) {
  const std::string from = FamilyDir("phimoe_longrope");
  const auto dir = std::filesystem::path(::testing::TempDir()) / absl::StrCat("longrope_", getpid());
  std::filesystem::create_directory(dir);
  std::filesystem::create_symlink(from + "/model.safetensors", dir / "model.safetensors");
  nlohmann::json config = nlohmann::json::parse(testing::ReadFile(from + "/config.json"));
  config["original_max_position_embeddings"] = config["rope_scaling"]["original_max_position_embeddings"] = 150;
  std::ofstream(dir / "config.json") << config;
  std::vector<int32_t> prompt;
  for (int i = 0; i < 140; ++i) prompt.push_back((i * 37 + 11) % 300);
  const std::vector<int32_t> other(prompt.begin() + 1, prompt.end());
  const std::vector<Request> requests = {GenerateRequest(prompt, 10), GenerateRequest(prompt, 11),
                                         GenerateRequest(other, 30),  GenerateRequest(prompt, 9),
                                         GenerateRequest(prompt, 40), GenerateRequest(other, 5)};
  RunSetup alone;
  alone.model_dir = dir.string();
  std::vector<RunResult> want;
  for (const Request& r : requests) want.push_back(RunLocally(alone, {r})[0]);
  const auto first_of = [&](size_t request, size_t count) {
    const std::vector<float>& logprobs = want[request].logprobs;
    return std::vector<float>(logprobs.begin(), logprobs.begin() + std::min(count, logprobs.size()));
  };
  EXPECT_NE(want[0].logprobs, first_of(1, 10));
  EXPECT_EQ(want[1].logprobs, first_of(4, 11));
  for (const int num_ranks : {1, 2, 3}) {
    for (const int64_t at_once : {1, 8}) {
      SCOPED_TRACE(::testing::Message() << num_ranks << " ranks, " << at_once << " sequences at once");
      RunSetup setup = alone;
      setup.num_ranks = num_ranks;
      setup.engine.prefill_chunk = 50;
      setup.engine.max_sequences_per_rank = at_once;
      setup.engine.cache_tokens_per_rank = 448;  // seven blocks, of which a sequence takes three
      const RunOutcome run = RunAndCount(setup, requests);
      for (size_t i = 0; i < requests.size(); ++i) {
        EXPECT_EQ(run.results[i].tokens, want[i].tokens) << i;
        EXPECT_EQ(run.results[i].logprobs, want[i].logprobs) << i;
      }
      if (num_ranks == 1) {
        EXPECT_GT(run.scheduler.prefix_hit_tokens, 0);
      }
    }
  }
  std::filesystem::remove_all(dir);
}

// Layers with a state of each sequence: it is the sequence's alone and from its start on, whoever had it before, and
// whether the sequence was preempted or had been begun elsewhere.
TEST(GatedDelta, EverySequenceHasItsOwnState) {
  std::vector<int32_t> prompt;
  for (int i = 0; i < 140; ++i) prompt.push_back((i * 37 + 11) % 300);
  const std::vector<int32_t> other(prompt.begin() + 1, prompt.end()), brief = {5, 6, 7};
  std::vector<Request> requests = {GenerateRequest(prompt, 70), GenerateRequest(prompt, 60), GenerateRequest(brief, 20),
                                   GenerateRequest(other, 70), GenerateRequest(prompt, 5)};
  RunSetup alone;
  alone.model_dir = FamilyDir("qwen3_next");
  std::vector<RunResult> want;
  for (const Request& r : requests) want.push_back(RunLocally(alone, {r})[0]);
  EXPECT_EQ(want[4].tokens, std::vector<int32_t>(want[0].tokens.begin(), want[0].tokens.begin() + 5));
  requests.push_back(requests[0]);  // goes on behind its ninth token
  requests.back().output.assign(want[0].tokens.begin(), want[0].tokens.begin() + 9);
  want.emplace_back();
  want.back().tokens.assign(want[0].tokens.begin() + 9, want[0].tokens.end());
  want.back().logprobs.assign(want[0].logprobs.begin() + 9, want[0].logprobs.end());
  for (const int num_ranks : {1, 3}) {
    SCOPED_TRACE(::testing::Message() << num_ranks << " ranks");
    RunSetup setup = alone;
    setup.num_ranks = num_ranks;
    setup.engine.prefill_chunk = 50;
    setup.engine.max_sequences_per_rank = 3;
    setup.engine.cache_tokens_per_rank = 384;  // six blocks, of which a sequence takes up to four
    const RunOutcome run = RunAndCount(setup, requests);
    for (size_t i = 0; i < requests.size(); ++i) {
      EXPECT_EQ(run.results[i].tokens, want[i].tokens) << i;
      EXPECT_EQ(run.results[i].logprobs, want[i].logprobs) << i;
    }
    EXPECT_EQ(run.scheduler.prefix_hit_tokens, 0);
    if (num_ranks == 1) {
      EXPECT_GT(run.scheduler.num_preemptions, 0);
    }
  }
}

// Writes the tensors of V3.2's folder into `dir`, those that `change` keeps (by name, shape and bytes).
void WriteSparse(const std::filesystem::path& dir,
                 const std::function<bool(const TensorInfo&, std::vector<uint8_t>&)>& change) {
  std::vector<SafetensorsWriter::Spec> specs;
  std::vector<std::vector<uint8_t>> contents;
  for (const char* shard : {"/model-00001-of-00002.safetensors", "/model-00002-of-00002.safetensors"}) {
    const auto file = SafetensorsFile::Open(FamilyDir("deepseek_v32") + shard);
    ASSERT_TRUE(file.ok()) << file.status();
    for (const TensorInfo& tensor : (*file)->tensors()) {
      std::vector<uint8_t> bytes(static_cast<size_t>(tensor.num_bytes));
      ASSERT_TRUE((*file)->Read(tensor, 0, absl::MakeSpan(bytes)).ok());
      if (!change(tensor, bytes)) continue;
      specs.push_back({tensor.name, tensor.dtype, tensor.shape});
      contents.push_back(std::move(bytes));
    }
  }
  auto writer = SafetensorsWriter::Create((dir / "model.safetensors").string(), specs);
  ASSERT_TRUE(writer.ok()) << writer.status();
  for (size_t i = 0; i < specs.size(); ++i) {
    ASSERT_TRUE((*writer)->Write(i, 0, contents[i].data(), static_cast<int64_t>(contents[i].size())).ok());
  }
  ASSERT_TRUE((*writer)->Commit().ok());
}

// Rows i and i + rope / 2 of each head become rows 2i and 2i + 1: what turned as halves turns as pairs.
void PairRows(int64_t head_dim, int64_t rope, int64_t row_bytes, std::vector<uint8_t>& rows) {
  const std::vector<uint8_t> from = rows;
  const auto num_rows = static_cast<int64_t>(rows.size()) / row_bytes;
  for (int64_t row = 0; row < num_rows; ++row) {
    const int64_t at = row % head_dim;
    const int64_t source = at >= rope ? row : row - at + at / 2 + at % 2 * (rope / 2);
    std::memcpy(rows.data() + row * row_bytes, from.data() + source * row_bytes, static_cast<size_t>(row_bytes));
  }
}

class Glm5 : public ::testing::Test {
 protected:
  void SetUp() override { std::filesystem::create_directory(dir_); }
  void TearDown() override { std::filesystem::remove_all(dir_); }

  void WriteConfig(const nlohmann::json& changes) {
    nlohmann::json config = nlohmann::json::parse(testing::ReadFile(FamilyDir("deepseek_v32") + "/config.json"));
    config["model_type"] = "glm_moe_dsa";
    config["architectures"] = {"GlmMoeDsaForCausalLM"};
    config.update(changes);
    std::ofstream(dir_ / "config.json") << config;
  }
  RunResult Run(const std::string& prompt) const {
    RunSetup setup;
    setup.model_dir = dir_.string();
    return RunLocally(setup, {TraceRequest(Golden<int32_t>("deepseek_v32", prompt + ".input_ids"))})[0];
  }

  const std::filesystem::path dir_ = std::filesystem::path(::testing::TempDir()) / absl::StrCat("glm5_", getpid());
  static constexpr int64_t kHeadDim = 16, kRope = 8;  // of the folder's indexer
};

// GLM-5 is V3.2 whose indexers turn pairs where V3.2's turn halves: with their rows in the other order it is the same.
TEST_F(Glm5, TurnsPairsOfTheIndexersRows) {
  WriteConfig({{"indexer_types", {"full", "full", "full"}}});
  WriteSparse(dir_, [](const TensorInfo& tensor, std::vector<uint8_t>& bytes) {
    for (const char* rows :
         {"indexer.wq_b.weight", "indexer.wk.weight", "indexer.k_norm.weight", "indexer.k_norm.bias"}) {
      if (!absl::EndsWith(tensor.name, rows)) continue;
      PairRows(kHeadDim, kRope, tensor.num_bytes / tensor.shape[0], bytes);
    }
    return true;
  });
  for (const std::string prompt : {"short", "long"}) {
    const RunResult got = Run(prompt);
    EXPECT_LE(WorstShare(got.logits, Golden<float>("deepseek_v32", prompt + ".logits")), 1);
    EXPECT_LE(WorstShare(got.hidden_states, Golden<float>("deepseek_v32", prompt + ".hidden_states")), 1);
  }
}

// A layer without an indexer sees what the last one with an indexer has selected.
TEST_F(Glm5, LayersShareSelections) {
  const auto without_last = [](const TensorInfo& tensor, std::vector<uint8_t>&) {
    return !absl::StrContains(tensor.name, "layers.2.self_attn.indexer.");
  };
  WriteSparse(dir_, without_last);
  WriteConfig({{"index_topk_pattern", "FFS"}});
  const RunResult got = Run("long");
  const size_t of_layer = got.selected_keys.size() / 3;
  const auto layer = [&](size_t l) {
    return std::vector<int32_t>(got.selected_keys.begin() + l * of_layer,
                                got.selected_keys.begin() + (l + 1) * of_layer);
  };
  EXPECT_NE(layer(0), layer(1));
  EXPECT_EQ(layer(1), layer(2));
  WriteConfig({{"index_topk_freq", 2}, {"index_skip_topk_offset", 1}});  // full, shared, full
  const auto wants_all = LoadModelSpec(dir_.string());
  ASSERT_TRUE(wants_all.ok()) << wants_all.status();
  EXPECT_EQ(wants_all->layers[1].attention.indexer.kind, IndexerSpec::Kind::kShared);
  EXPECT_EQ(wants_all->layers[2].attention.indexer.kind, IndexerSpec::Kind::kOwn);
}

}  // namespace
}  // namespace tokenferry

// What sequences of single families need of the whole engine, and models that are others in disguise.
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "runtime/checkpoint/safetensors.h"
#include "runtime/families/families.h"
#include "tests/runtime/engine/engine_runner.h"
#include "tests/runtime/families/gguf_golden.h"
#include "tests/support/checkpoint_writer.h"

namespace tokenferry {
namespace {

using testing::FileTensor;

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

// All tensors of a family's folder.
std::vector<FileTensor> TensorsOf(const std::string& family) {
  std::vector<FileTensor> tensors;
  for (const auto& entry : std::filesystem::directory_iterator(FamilyDir(family))) {
    const std::string name = entry.path().filename().string();
    if (!absl::StartsWith(name, "model") || !absl::EndsWith(name, ".safetensors")) continue;
    const auto file = SafetensorsFile::Open(entry.path().string());
    EXPECT_TRUE(file.ok()) << file.status();
    for (const TensorInfo& info : (*file)->tensors()) {
      std::string data(static_cast<size_t>(info.num_bytes), '\0');
      const auto bytes = absl::MakeSpan(reinterpret_cast<uint8_t*>(data.data()), data.size());
      EXPECT_TRUE((*file)->Read(info, 0, bytes).ok());
      tensors.push_back({info.name, info.dtype, info.shape, std::move(data)});
    }
  }
  return tensors;
}

std::string WidenedToF32(const std::string& bf16) {
  std::string f32(bf16.size() * 2, '\0');  // its upper halves
  for (size_t i = 0; i < bf16.size(); ++i) f32[i / 2 * 4 + 2 + i % 2] = bf16[i];
  return f32;
}

// One tensor of all experts as one for each: rows [first, first + num_rows) of every expert.
void AddSingleExperts(const FileTensor& fused, const std::string& name, int64_t first, int64_t num_rows,
                      std::vector<FileTensor>& out) {
  const int64_t experts = fused.shape[0], rows = fused.shape[1], cols = fused.shape[2];
  const size_t row_bytes = fused.data.size() / static_cast<size_t>(experts * rows);
  const std::string prefix = fused.name.substr(0, fused.name.rfind('.'));
  for (int64_t e = 0; e < experts; ++e) {
    out.push_back({absl::StrCat(prefix, ".", e, ".", name, ".weight"),
                   fused.dtype,
                   {num_rows, cols},
                   fused.data.substr((e * rows + first) * row_bytes, num_rows * row_bytes)});
  }
}

// Qwen3.5 with norms, which are stored minus one, in F32 and its experts one by one: the same values, the same bits.
TEST(Qwen35, NormsInF32AndSingleExpertsAreTheSame) {
  testing::TempDir dir;
  testing::WriteFile(dir.path() + "/config.json", testing::ReadFile(FamilyDir("qwen3_5_moe") + "/config.json"));
  std::vector<FileTensor> tensors;
  int num_norms = 0, num_fused = 0;
  for (FileTensor& tensor : TensorsOf("qwen3_5_moe")) {
    if (absl::EndsWith(tensor.name, "mlp.experts.gate_up_proj")) {
      const int64_t width = tensor.shape[1] / 2;
      AddSingleExperts(tensor, "gate_proj", 0, width, tensors);
      AddSingleExperts(tensor, "up_proj", width, width, tensors);
      ++num_fused;
    } else if (absl::EndsWith(tensor.name, "mlp.experts.down_proj")) {
      AddSingleExperts(tensor, "down_proj", 0, tensor.shape[1], tensors);
      ++num_fused;
    } else {
      if (absl::EndsWith(tensor.name, "norm.weight") && tensor.dtype == DType::kBF16) {
        tensor = {tensor.name, DType::kF32, tensor.shape, WidenedToF32(tensor.data)};
        ++num_norms;
      }
      tensors.push_back(std::move(tensor));
    }
  }
  EXPECT_EQ(num_fused, 8);
  EXPECT_GE(num_norms, 11);
  testing::WriteFile(dir.path() + "/model.safetensors", testing::SafetensorsBytes(tensors));
  const Request request = TraceRequest(Golden<int32_t>("qwen3_5_moe", "long.input_ids"));
  const RunResult want = RunLocally(SetupOf(FamilyDir("qwen3_5_moe")), {request})[0];
  for (const int num_ranks : {1, 3}) {
    const RunResult got = RunLocally(SetupOf(dir.path(), num_ranks), {request})[0];
    EXPECT_TRUE(SameBits(got.logits, want.logits)) << num_ranks;
    EXPECT_TRUE(SameBits(got.hidden_states, want.hidden_states)) << num_ranks;
  }
}

// Rows i and i + rope / 2 of each head become rows 2i and 2i + 1: what turned as halves turns as pairs.
void PairRows(int64_t head_dim, int64_t rope, int64_t row_bytes, std::string& rows) {
  const std::string from = rows;
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
  void WriteTensors(const std::vector<FileTensor>& tensors) {
    testing::WriteFile((dir_ / "model.safetensors").string(), testing::SafetensorsBytes(tensors));
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
  std::vector<FileTensor> tensors = TensorsOf("deepseek_v32");
  for (FileTensor& tensor : tensors) {
    for (const char* rows :
         {"indexer.wq_b.weight", "indexer.wk.weight", "indexer.k_norm.weight", "indexer.k_norm.bias"}) {
      if (!absl::EndsWith(tensor.name, rows)) continue;
      PairRows(kHeadDim, kRope, static_cast<int64_t>(tensor.data.size()) / tensor.shape[0], tensor.data);
    }
  }
  WriteTensors(tensors);
  for (const std::string prompt : {"short", "long"}) {
    const RunResult got = Run(prompt);
    EXPECT_LE(WorstShare(got.logits, Golden<float>("deepseek_v32", prompt + ".logits")), 1);
    EXPECT_LE(WorstShare(got.hidden_states, Golden<float>("deepseek_v32", prompt + ".hidden_states")), 1);
  }
}

// A layer without an indexer sees what the last one with an indexer has selected.
TEST_F(Glm5, LayersShareSelections) {
  std::vector<FileTensor> tensors = TensorsOf("deepseek_v32");
  std::erase_if(tensors,
                [](const FileTensor& tensor) { return absl::StrContains(tensor.name, "layers.2.self_attn.indexer."); });
  WriteTensors(tensors);
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

// Every family against what transformers computes in float32 from the same tiny checkpoint (tests/data/families).
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "runtime/checkpoint/safetensors.h"
#include "runtime/checkpoint/safetensors_writer.h"
#include "runtime/families/families.h"
#include "runtime/model/tensor_plan.h"
#include "tests/runtime/engine/engine_runner.h"

namespace tokenferry {
namespace {

std::string DataDir() { return SourceDir() + "/tests/data/families/"; }

std::string ReadText(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

std::vector<std::string> Folders() {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(DataDir())) {
    if (entry.is_directory()) names.push_back(entry.path().filename().string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

// Kimi-K2.5 is DeepSeek-V3 in int4 within a model for images: the same tensors and results, under other names beside
// those of the images.
std::string WriteKimiK25() {
  const std::string from = DataDir() + "deepseek_v3_int4/";
  const auto dir = std::filesystem::path(testing::TempDir()) / absl::StrCat("kimi_k25_", getpid());
  std::filesystem::create_directory(dir);
  for (const char* file : {"golden.safetensors", "golden.json"}) std::filesystem::copy(from + file, dir / file);
  std::filesystem::copy(DataDir() + "kimi_k25/config.json", dir / "config.json");
  const auto file = SafetensorsFile::Open(from + "model.safetensors");
  EXPECT_TRUE(file.ok()) << file.status();
  std::vector<SafetensorsWriter::Spec> specs;
  for (const TensorInfo& tensor : (*file)->tensors()) {
    specs.push_back({"language_model." + tensor.name, tensor.dtype, tensor.shape});
  }
  const std::vector<SafetensorsWriter::Spec> of_images = {
      {"vision_tower.encoder.blocks.0.norm0.weight", DType::kBF16, {32}},
      {"vision_tower.patch_embed.proj.weight", DType::kBF16, {32, 3, 14, 14}},
      {"mm_projector.pre_norm.weight", DType::kBF16, {32}}};
  specs.insert(specs.end(), of_images.begin(), of_images.end());
  const auto writer = SafetensorsWriter::Create((dir / "model.safetensors").string(), specs);
  EXPECT_TRUE(writer.ok()) << writer.status();
  for (size_t i = 0; i < (*file)->tensors().size(); ++i) {
    const TensorInfo& tensor = (*file)->tensors()[i];
    std::vector<uint8_t> bytes(static_cast<size_t>(tensor.num_bytes));
    EXPECT_TRUE((*file)->Read(tensor, 0, absl::MakeSpan(bytes)).ok());
    EXPECT_TRUE((*writer)->Write(i, 0, bytes.data(), tensor.num_bytes).ok());
  }
  EXPECT_TRUE((*writer)->Commit().ok());
  return dir.string();
}

class Families : public testing::TestWithParam<std::string> {
 protected:
  static void SetUpTestSuite() { kimi_k25_ = WriteKimiK25(); }
  static void TearDownTestSuite() { std::filesystem::remove_all(kimi_k25_); }

  void SetUp() override {
    auto file = SafetensorsFile::Open(dir() + "/golden.safetensors");
    ASSERT_TRUE(file.ok()) << file.status();
    file_ = *std::move(file);
    golden_ = nlohmann::json::parse(ReadText(dir() + "/golden.json"));
  }

  std::string dir() const { return GetParam() == "kimi_k25" ? kimi_k25_ : DataDir() + GetParam(); }
  RunSetup Setup() const {
    RunSetup setup;
    setup.model_dir = dir();
    return setup;
  }

  template <class T>
  std::vector<T> Tensor(const std::string& name) const {
    const TensorInfo* info = file_->Find(name);
    EXPECT_NE(info, nullptr) << name;
    if (info == nullptr) return {};
    std::vector<T> values(static_cast<size_t>(info->num_bytes) / sizeof(T));
    const auto bytes = absl::MakeSpan(reinterpret_cast<uint8_t*>(values.data()), values.size() * sizeof(T));
    EXPECT_TRUE(file_->Read(*info, 0, bytes).ok());
    return values;
  }
  std::vector<int32_t> Ids(const std::string& prompt) const { return Tensor<int32_t>(prompt + ".input_ids"); }

  // What the reference's own noise allows (tests/data/families/README.md): values differ by at most
  // absolute + relative * |reference|.
  struct Tolerance {
    double absolute, relative;
  };
  static constexpr Tolerance kOfStates{2e-4, 1e-4}, kOfRouterLogits{1e-4, 0};

  // Largest |difference| of values, in units of what is allowed.
  static double WorstShare(const std::vector<float>& got, const std::vector<float>& want, Tolerance tolerance) {
    EXPECT_FALSE(want.empty());
    EXPECT_EQ(got.size(), want.size());
    double worst = 0;
    for (size_t i = 0; i < std::min(got.size(), want.size()); ++i) {
      const double allowed = tolerance.absolute + tolerance.relative * std::abs(static_cast<double>(want[i]));
      const double share = std::abs(static_cast<double>(got[i]) - want[i]) / allowed;
      worst = std::isnan(share) ? HUGE_VAL : std::max(worst, share);
    }
    return worst;
  }

  static bool SameBits(const std::vector<float>& got, const std::vector<float>& want) {
    return !want.empty() && got.size() == want.size() &&
           std::memcmp(got.data(), want.data(), want.size() * sizeof(float)) == 0;
  }

  // Token-layers whose experts differ although no other choice was near, and whose weights do.
  struct RoutingFaults {
    int64_t compared = 0, experts = 0, weights = 0;
  };
  RoutingFaults CompareRouting(const std::string& prompt, const RunResult& result) const {
    const auto idx = Tensor<int32_t>(prompt + ".topk_indices");
    const auto weight = Tensor<float>(prompt + ".topk_weights"), margin = Tensor<float>(prompt + ".margins");
    EXPECT_EQ(result.expert_idx.size(), idx.size());
    RoutingFaults faults;
    if (result.expert_idx.size() != idx.size()) return faults;
    const size_t K = idx.size() / margin.size();
    for (size_t row = 0; row < margin.size(); ++row) {
      if (margin[row] <= 1e-4) continue;
      ++faults.compared;
      std::map<int32_t, float> want, got;
      for (size_t k = 0; k < K; ++k) {
        want[idx[row * K + k]] = weight[row * K + k];
        got[result.expert_idx[row * K + k]] = result.expert_weight[row * K + k];
      }
      bool same = want.size() == got.size(), near = true;
      for (const auto& [expert, w] : want) {
        const auto found = got.find(expert);
        same = same && found != got.end();
        near = near && found != got.end() && std::abs(found->second - w) <= 1e-4f + 1e-4f * std::abs(w);
      }
      faults.experts += same ? 0 : 1;
      faults.weights += near ? 0 : 1;
    }
    return faults;
  }

  // Layers and tokens whose selected keys differ although no other selection was near.
  struct SelectionFaults {
    int64_t compared = 0, different = 0;
  };
  SelectionFaults CompareSelections(const std::string& prompt, const RunResult& result) const {
    SelectionFaults faults;
    if (file_->Find(prompt + ".indexer_topk") == nullptr) return faults;
    const auto want = Tensor<int32_t>(prompt + ".indexer_topk");
    const auto margin = Tensor<float>(prompt + ".index_margins");
    EXPECT_EQ(result.selected_keys.size(), want.size());
    if (result.selected_keys.size() != want.size()) return faults;
    const size_t num_layers = golden_["moe_layers"].size() + 1, size = want.size() / (num_layers * margin.size());
    for (size_t row = 0; row < num_layers * margin.size(); ++row) {
      if (margin[row % margin.size()] <= 1e-4) continue;
      ++faults.compared;
      const auto of_row = want.begin() + row * size;
      faults.different += std::equal(of_row, of_row + size, result.selected_keys.begin() + row * size) ? 0 : 1;
    }
    return faults;
  }

  inline static std::string kimi_k25_;  // where it has been written
  std::unique_ptr<SafetensorsFile> file_;
  nlohmann::json golden_;
};

TEST_P(Families, AgreesWithTransformersInFloat32) {
  const std::vector<std::string> prompts = {"short", "long"};
  std::vector<Request> requests;
  for (const auto& p : prompts) requests.push_back(TraceRequest(Ids(p)));
  for (const auto& p : prompts) {
    requests.push_back(GenerateRequest(Ids(p), static_cast<int64_t>(golden_["prompts"][p]["greedy"].size())));
  }
  RunSetup setup = Setup();
  setup.num_ranks = 2;
  const auto results = RunLocally(setup, requests);
  double logits = 0, hidden_states = 0, router_logits = 0;
  RoutingFaults faults;
  SelectionFaults selections;
  size_t num_texts = 0;
  for (size_t i = 0; i < prompts.size(); ++i) {
    const auto golden = [&](const std::string& what) { return Tensor<float>(prompts[i] + what); };
    logits = std::max(logits, WorstShare(results[i].logits, golden(".logits"), kOfStates));
    hidden_states = std::max(hidden_states, WorstShare(results[i].hidden_states, golden(".hidden_states"), kOfStates));
    router_logits =
        std::max(router_logits, WorstShare(results[i].router_logits, golden(".router_logits"), kOfRouterLogits));
    const RoutingFaults f = CompareRouting(prompts[i], results[i]);
    faults = {faults.compared + f.compared, faults.experts + f.experts, faults.weights + f.weights};
    const SelectionFaults of_prompt = CompareSelections(prompts[i], results[i]);
    selections = {selections.compared + of_prompt.compared, selections.different + of_prompt.different};
    const auto greedy = golden_["prompts"][prompts[i]]["greedy"].get<std::vector<int32_t>>();
    num_texts += results[prompts.size() + i].tokens == greedy ? 1 : 0;
  }
  // The table of families: one line per folder.
  std::printf(
      "| %-22s | of the tolerance: logits %5.1f %%, hidden states %5.1f %%, router logits %5.1f %% | %4ld of %4ld "
      "routings "
      "| %zu of 2 greedy texts |\n",
      GetParam().c_str(), 100 * logits, 100 * hidden_states, 100 * router_logits,
      static_cast<long>(faults.compared - faults.experts), static_cast<long>(faults.compared), num_texts);
  EXPECT_LE(logits, 1);
  EXPECT_LE(hidden_states, 1);
  EXPECT_LE(router_logits, 1);
  EXPECT_GT(faults.compared, 0);
  EXPECT_EQ(faults.experts, 0);
  EXPECT_EQ(faults.weights, 0);
  EXPECT_EQ(num_texts, prompts.size());
  EXPECT_EQ(selections.compared > 0, file_->Find("long.indexer_topk") != nullptr);
  EXPECT_EQ(selections.different, 0);
  if (selections.compared > 0) {
    std::printf("| %-22s | selected keys: %ld of %ld rows |\n", GetParam().c_str(),
                static_cast<long>(selections.compared - selections.different), static_cast<long>(selections.compared));
  }
}

// Bit for bit, traces too: ranks, chunks, company, instruction set; and nothing but operations touches device memory.
TEST_P(Families, BitsDoNotDependOnHowItRuns) {
  const std::vector<int32_t> ids = Ids("long");
  for (const Compute compute : {Compute::kF32, Compute::kBF16}) {
    RunSetup whole = Setup();
    whole.engine.compute = compute;
    const RunResult want = RunLocally(whole, {TraceRequest(ids)})[0];
    ASSERT_FALSE(want.hidden_states.empty());
    const auto expect_same = [&](const RunSetup& setup, const std::vector<Request>& requests, const char* what) {
      std::vector<RunResult> results = RunLocally(setup, requests);
      const RunResult& got = results.back();
      EXPECT_TRUE(SameBits(got.logits, want.logits)) << what;
      EXPECT_TRUE(SameBits(got.hidden_states, want.hidden_states)) << what;
      EXPECT_TRUE(SameBits(got.router_logits, want.router_logits)) << what;
      EXPECT_EQ(got.selected_keys, want.selected_keys) << what;
      return results;
    };
    RunSetup chunks = whole;
    chunks.engine.prefill_chunk = 7;
    chunks.num_ranks = 2;
    expect_same(chunks, {TraceRequest(ids)}, "chunks of 7, 2 ranks");
    RunSetup single = whole;
    single.engine.prefill_chunk = 1;
    single.num_ranks = 3;
    single.placement_seed = 5;
    expect_same(single, {TraceRequest(ids)}, "token by token, 3 ranks");
    RunSetup company = whole;
    company.num_ranks = 3;
    company.engine.prefill_chunk = 16;
    company.engine.overlap = Overlap::kTwoBatch;
    // The last one shares a rank and its steps with the first, behind whose rows its own lie.
    const std::vector<Request> together = {LogitsRequest(Ids("short")), LogitsRequest(ids), LogitsRequest(ids),
                                           TraceRequest(ids)};
    const RunResult untraced = expect_same(company, together, "in company")[1];
    EXPECT_TRUE(SameBits(untraced.logits, want.logits));
    EXPECT_TRUE(untraced.hidden_states.empty() && untraced.router_logits.empty());
    RunSetup rounds = whole;
    rounds.num_ranks = 2;
    // Some tokens of every rank, but not all 60: what one takes is in proportion to the hidden size.
    rounds.engine.moe.exchange_budget =
        1024 * ParseModelSpec(ReadText(dir() + "/config.json"), "config.json")->hidden_size;
    expect_same(rounds, {TraceRequest(ids)}, "in rounds");
    RunSetup trap = whole;
    trap.device.execution = CpuExecution::kLazy;
    trap.device.memory = CpuMemory::kTrap;
    expect_same(trap, {TraceRequest(ids)}, "lazy device, trapped memory");
    if (compute == Compute::kBF16) continue;  // its products have an order of their own on AVX-512
    RunSetup portable = whole;
    portable.portable_isa = true;
    expect_same(portable, {TraceRequest(ids)}, "portable");
  }
}

// What is stored narrow is kept narrow: 16-bit scales of FP8 and zero points of four bits are all that grows. Vectors
// are widened (biases to F32), which only models as small as these notice: matrices are what counts.
TEST_P(Families, MemoryHoldsWhatIsStored) {
  const auto model = LoadModelSpec(dir());
  ASSERT_TRUE(model.ok()) << model.status();
  const auto checkpoint = Checkpoint::Open(dir());
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  const auto checked = CheckCheckpoint(*model, *checkpoint);
  ASSERT_TRUE(checked.ok()) << checked.status();
  EXPECT_EQ(checked->num_unknown, 0) << checked->unknown_names[0];
  int64_t stored = 0, held = 0;
  for (const TensorSpec& spec : checked->plan.tensors) {
    if (spec.shape.size() < 2) continue;
    stored += spec.stored_bytes();
    held += spec.memory_bytes().total();
  }
  EXPECT_LE(static_cast<double>(held), 1.03 * static_cast<double>(stored));
  std::printf("| %-22s | matrices in memory %6.4f of stored |\n", GetParam().c_str(),
              static_cast<double>(held) / static_cast<double>(stored));
}

// Experts rounded by row while they are loaded: whoever holds them, the bits are the same; and more bits are nearer.
TEST_P(Families, ExpertsInFewerBitsAreTheSameOnAllRanks) {
  const std::vector<int32_t> ids = Ids("short");
  const std::vector<float> golden = Tensor<float>("short.logits");
  std::map<ExpertDtype, double> difference;
  for (const ExpertDtype dtype : kExpertDtypes) {
    RunSetup one = Setup(), three = one;
    one.expert_dtype = three.expert_dtype = dtype;
    three.num_ranks = 3;
    three.placement_seed = 2;
    const auto alone = RunLocally(one, {LogitsRequest(ids)})[0].logits;
    const auto among_three = RunLocally(three, {LogitsRequest(ids)})[0].logits;
    ASSERT_EQ(alone.size(), golden.size());
    ASSERT_EQ(among_three.size(), alone.size());
    EXPECT_EQ(std::memcmp(alone.data(), among_three.data(), alone.size() * sizeof(float)), 0) << ExpertDtypeName(dtype);
    for (size_t i = 0; i < golden.size(); ++i) difference[dtype] += std::abs(alone[i] - golden[i]);
  }
  EXPECT_LT(difference[ExpertDtype::kInt8], difference[ExpertDtype::kInt2]);
  EXPECT_LT(difference[ExpertDtype::kInt4], difference[ExpertDtype::kInt2]);
  EXPECT_GT(difference[ExpertDtype::kInt2], 0.01 * static_cast<double>(golden.size()));  // it does something
}

TEST_P(Families, BothGenerationsOfConfigAreOneModel) {
  const auto old_keys = ParseModelSpec(ReadText(dir() + "/config.json"), "config.json");
  ASSERT_TRUE(old_keys.ok()) << old_keys.status();
  if (!std::filesystem::exists(dir() + "/config_v5.json")) GTEST_SKIP() << "has one config.json";
  auto new_keys = ParseModelSpec(ReadText(dir() + "/config_v5.json"), "config_v5.json");
  ASSERT_TRUE(new_keys.ok()) << new_keys.status();
  // These files were written from a model held in float32, and without the description of its quantisation.
  new_keys->dtype = old_keys->dtype;
  new_keys->quant = old_keys->quant;
  new_keys->bos_token_id = old_keys->bos_token_id;
  EXPECT_TRUE(*old_keys == *new_keys);
}

INSTANTIATE_TEST_SUITE_P(All, Families, testing::ValuesIn(Folders()), [](const auto& info) { return info.param; });

}  // namespace
}  // namespace tokenferry

// Every family on the fake GPU: the CPU's logits, routing and traces bit for bit, and its texts, whose steps are
// graphs.
#include "runtime/families/families.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <fstream>
#include <memory>
#include <numeric>
#include <sstream>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "core/device/cuda_device.h"
#include "runtime/model/model_summary.h"
#include "runtime/model/tensor_plan.h"
#include "tests/fakegpu/cudart/runtime.h"
#include "tests/runtime/engine/engine_runner.h"

namespace tokenferry {
namespace {

std::string DataDir() { return SourceDir() + "/tests/data/"; }

// Some are a configuration alone.
bool HasWeights(const std::filesystem::path& dir) {
  const std::filesystem::directory_iterator entries(dir);
  return std::any_of(begin(entries), end(entries),
                     [](const auto& e) { return e.path().extension() == ".safetensors"; });
}

std::vector<std::string> Folders() {
  std::vector<std::string> names;
  for (const std::string kind : {"families/", "encoder_decoder/"}) {
    for (const auto& entry : std::filesystem::directory_iterator(DataDir() + kind)) {
      if (entry.is_directory() && HasWeights(entry.path())) names.push_back(kind + entry.path().filename().string());
    }
  }
  std::sort(names.begin(), names.end());
  return names;
}

// Requests whose last tokens, of the prompt and of steps that are graphs, have more keys than are selected.
std::vector<Request> BeyondSelection(int64_t num_selected) {
  std::vector<int32_t> prompt(num_selected + 3);
  std::iota(prompt.begin(), prompt.end(), 5);
  return {TraceRequest(prompt), GenerateRequest(prompt, 4)};
}

// Whether a GPU gives the CPU's bits: of the first request, a trace, all that there is.
void ExpectTheCpusBits(const std::string& model_dir, int num_ranks, const std::vector<Request>& requests) {
  RunSetup cpu;
  cpu.model_dir = model_dir;
  cpu.num_ranks = num_ranks;
  cpu.engine.prefill_chunk = 5;
  cpu.engine.cache_tokens_per_rank = 256;
  RunSetup gpu = cpu;
  gpu.make_device = [next = std::make_shared<std::atomic<int>>(0)] { return CreateCudaDevice({.ordinal = (*next)++}); };
  const std::vector<RunResult> want = RunLocally(cpu, requests), got = RunLocally(gpu, requests);
  EXPECT_EQ(got[0].logits, want[0].logits);
  EXPECT_EQ(got[0].expert_idx, want[0].expert_idx);
  EXPECT_EQ(got[0].expert_weight, want[0].expert_weight);
  ASSERT_FALSE(want[0].hidden_states.empty());
  EXPECT_EQ(got[0].hidden_states, want[0].hidden_states);
  EXPECT_EQ(got[0].router_logits, want[0].router_logits);
  EXPECT_EQ(got[0].selected_keys, want[0].selected_keys);
  ASSERT_EQ(got[0].encoder.size(), want[0].encoder.size());
  for (size_t i = 0; i < want[0].encoder.size(); ++i) {
    EXPECT_EQ(got[0].encoder[i].hidden_states, want[0].encoder[i].hidden_states);
  }
  EXPECT_EQ(got.back().tokens, want.back().tokens);
  EXPECT_EQ(got.back().logprobs, want.back().logprobs);
}

class FamiliesOnGpu : public testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(All, FamiliesOnGpu, testing::ValuesIn(Folders()),
                         [](const auto& info) { return std::filesystem::path(info.param).filename().string(); });

TEST_P(FamiliesOnGpu, HasTheBitsOfTheCpu) {
  const std::string model_dir = DataDir() + GetParam();
  const auto model = LoadModelSpec(model_dir);
  ASSERT_TRUE(model.ok()) << model.status();
  const auto plan = PlanTensors(*model);
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(CheckGpuFormats(*plan), absl::OkStatus());
  // Models with millions of weights take half a minute each: one step, on one architecture.
  const bool is_large = SummarizeModel(*plan).Total().num_params > 1'000'000;
  if (is_large && fakegpu::Runtime::Get().arch != 90) GTEST_SKIP() << "has been executed from the PTX for Hopper";
  std::vector<Request> requests = {TraceRequest({5, 6, 7, 8, 9, 10, 11}), GenerateRequest({17, 3, 200}, 5)};
  if (is_large) requests = {TraceRequest({5, 6, 7})};
  if (model->num_selected_keys() > 0) requests = BeyondSelection(model->num_selected_keys());
  if (model->has_encoder()) requests[0] = WithDecoder(requests[0], {0, 9, 270, 31});
  ExpectTheCpusBits(model_dir, 2, requests);
}

// DeepSeek-V3.2's folder as one of GLM-5, whose last layer sees what the one before has selected.
TEST(Glm5OnGpu, SharesSelectionsOnOneRank) {
  const std::string from = DataDir() + "families/deepseek_v32";
  const std::filesystem::path dir = std::filesystem::path(testing::TempDir()) / absl::StrCat("glm5_gpu_", getpid());
  std::filesystem::create_directory(dir);
  for (const auto& entry : std::filesystem::directory_iterator(from)) {
    if (entry.path().filename() != "config.json") {
      std::filesystem::create_symlink(entry.path(), dir / entry.path().filename());
    }
  }
  std::stringstream config;
  config << std::ifstream(from + "/config.json").rdbuf();
  std::ofstream(dir / "config.json") << absl::StrReplaceAll(
      config.str(), {{"DeepseekV32ForCausalLM", "GlmMoeDsaForCausalLM"},
                     {"\"deepseek_v32\"", "\"glm_moe_dsa\", \"index_topk_pattern\": \"FFS\""}});
  std::vector<std::string> trace;
  fakegpu::Runtime::Get().trace = &trace;
  ExpectTheCpusBits(dir.string(), 1, BeyondSelection(12));
  fakegpu::Runtime::Get().trace = nullptr;
  EXPECT_THAT(trace, testing::Contains("cudaGraphLaunch"));
  std::filesystem::remove_all(dir);
}

}  // namespace
}  // namespace tokenferry

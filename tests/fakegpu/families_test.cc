// Every family on the fake GPU. In f32 the CPU's logits, routing and traces bit for bit, and its texts, whose steps are
// graphs; in bf16 bits that ranks and chunks do not change, as near to f32 as the CPU's.
#include "runtime/families/families.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdio>
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

RunSetup OnCpu(const std::string& model_dir, int num_ranks) {
  RunSetup cpu;
  cpu.model_dir = model_dir;
  cpu.num_ranks = num_ranks;
  cpu.engine.prefill_chunk = 5;
  cpu.engine.cache_tokens_per_rank = 256;
  return cpu;
}

RunSetup OnGpu(RunSetup setup) {
  setup.make_device = [next = std::make_shared<std::atomic<int>>(0)] {
    return CreateCudaDevice({.ordinal = (*next)++});
  };
  return setup;
}

// Whether a GPU gives the CPU's bits: of the first request, a trace, all that there is.
void ExpectTheCpusBits(const std::string& model_dir, int num_ranks, const std::vector<Request>& requests) {
  const RunSetup cpu = OnCpu(model_dir, num_ranks), gpu = OnGpu(cpu);
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

// Rows of `idx` [layers, tokens, k] before the first token for which it is not `other`'s: those after it may differ in
// all that they see.
int64_t NumTokensAlike(const std::vector<int32_t>& idx, const std::vector<int32_t>& other, int64_t num_tokens,
                       int64_t top_k) {
  int64_t alike = num_tokens;
  for (size_t i = 0; i < idx.size(); ++i) {
    if (idx[i] != other[i]) alike = std::min(alike, static_cast<int64_t>(i) / top_k % num_tokens);
  }
  return alike;
}

double LargestDistance(const std::vector<float>& a, const std::vector<float>& b, size_t size) {
  double largest = 0;
  for (size_t i = 0; i < size; ++i) largest = std::max(largest, std::fabs(double{a[i]} - double{b[i]}));
  return largest;
}

class FamiliesOnGpu : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    const auto model = LoadModelSpec(model_dir_);
    ASSERT_TRUE(model.ok()) << model.status();
    const auto plan = PlanTensors(*model);
    ASSERT_TRUE(plan.ok()) << plan.status();
    EXPECT_EQ(CheckGpuFormats(*plan), absl::OkStatus());
    // Models with millions of weights take half a minute each: one step, on one architecture.
    const bool is_large = SummarizeModel(*plan).Total().num_params > 1'000'000;
    if (is_large && fakegpu::Runtime::Get().arch != 90) GTEST_SKIP() << "has been executed from the PTX for Hopper";
    requests_ = {TraceRequest({5, 6, 7, 8, 9, 10, 11}), GenerateRequest({17, 3, 200}, 5)};
    if (is_large) requests_ = {TraceRequest({5, 6, 7})};
    if (model->num_selected_keys() > 0) requests_ = BeyondSelection(model->num_selected_keys());
    if (model->has_encoder()) requests_[0] = WithDecoder(requests_[0], {0, 9, 270, 31});
    top_k_ = model->moe.router.top_k;
  }

  const std::string model_dir_ = DataDir() + GetParam();
  std::vector<Request> requests_;
  int64_t top_k_ = 0;
};
INSTANTIATE_TEST_SUITE_P(All, FamiliesOnGpu, testing::ValuesIn(Folders()),
                         [](const auto& info) { return std::filesystem::path(info.param).filename().string(); });

TEST_P(FamiliesOnGpu, HasTheBitsOfTheCpu) { ExpectTheCpusBits(model_dir_, 2, requests_); }

// Both round the same numbers to bf16, the GPU the weights of attention besides: of tokens that take the same experts
// as in f32 the largest errors of some hundred logits are alike, within a factor of 4.
TEST_P(FamiliesOnGpu, InBF16HasOneMeaning) {
  const RunSetup f32 = OnCpu(model_dir_, 1);
  RunSetup cpu = f32;
  cpu.engine.compute = Compute::kBF16;
  RunSetup other = cpu;
  other.num_ranks = 2;
  other.engine.prefill_chunk = 3;
  const std::vector<RunResult> got = RunLocally(OnGpu(cpu), requests_);
  const std::vector<RunResult> again = RunLocally(OnGpu(other), requests_);
  EXPECT_EQ(got[0].logits, again[0].logits);
  EXPECT_EQ(got[0].expert_idx, again[0].expert_idx);
  EXPECT_EQ(got[0].expert_weight, again[0].expert_weight);
  EXPECT_EQ(got[0].selected_keys, again[0].selected_keys);
  EXPECT_EQ(got.back().tokens, again.back().tokens);
  EXPECT_EQ(got.back().logprobs, again.back().logprobs);

  const RunResult exact = RunLocally(f32, requests_)[0], on_cpu = RunLocally(cpu, requests_)[0];
  const auto& decoder_input = requests_[0].decoder_input;
  const int64_t num_tokens = std::ssize(decoder_input.empty() ? requests_[0].prompt : decoder_input);
  int64_t alike = num_tokens;
  for (const RunResult& bf16 : {got[0], on_cpu}) {
    alike = std::min(alike, NumTokensAlike(bf16.expert_idx, exact.expert_idx, num_tokens, top_k_));
    for (size_t i = 0; i < exact.encoder.size(); ++i) {
      if (bf16.encoder[i].expert_idx != exact.encoder[i].expert_idx) alike = 0;
    }
  }
  const size_t size = exact.logits.size() / num_tokens * alike;
  const double cpus = LargestDistance(on_cpu.logits, exact.logits, size),
               gpus = LargestDistance(got[0].logits, exact.logits, size);
  std::printf("%s: %d of %d tokens take f32's experts; largest error %.3g, the CPU's %.3g\n", GetParam().c_str(),
              static_cast<int>(alike), static_cast<int>(num_tokens), gpus, cpus);
  EXPECT_LE(gpus, 4 * cpus);
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

// Every family on the fake GPU: the CPU's logits, routing and traces bit for bit, and its texts, whose steps are
// graphs; or a refusal that says what has no kernel.
#include "runtime/families/families.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <memory>

#include "absl/strings/match.h"
#include "core/device/cuda_device.h"
#include "runtime/model/model_summary.h"
#include "runtime/model/tensor_plan.h"
#include "tests/fakegpu/cudart/runtime.h"
#include "tests/runtime/engine/engine_runner.h"

namespace tokenferry {
namespace {

std::string DataDir() { return SourceDir() + "/tests/data/families/"; }

// Some are a configuration alone.
bool HasWeights(const std::filesystem::path& dir) {
  const std::filesystem::directory_iterator entries(dir);
  return std::any_of(begin(entries), end(entries),
                     [](const auto& e) { return e.path().extension() == ".safetensors"; });
}

std::vector<std::string> Folders() {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(DataDir())) {
    if (entry.is_directory() && HasWeights(entry.path())) names.push_back(entry.path().filename().string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

class FamiliesOnGpu : public testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(All, FamiliesOnGpu, testing::ValuesIn(Folders()), [](const auto& info) { return info.param; });

TEST_P(FamiliesOnGpu, HasTheBitsOfTheCpu) {
  RunSetup cpu;
  cpu.model_dir = DataDir() + GetParam();
  cpu.num_ranks = 2;
  cpu.engine.prefill_chunk = 5;
  cpu.engine.cache_tokens_per_rank = 256;
  RunSetup gpu = cpu;
  gpu.make_device = [next = std::make_shared<std::atomic<int>>(0)] { return CreateCudaDevice({.ordinal = (*next)++}); };
  const auto model = LoadModelSpec(cpu.model_dir);
  ASSERT_TRUE(model.ok()) << model.status();
  const bool has_kernels = !model->has_states() && model->num_selected_keys() == 0;
  const absl::Status kernels = Transformer::CheckDevice(*model, DeviceKind::kCuda);
  const auto plan = PlanTensors(*model);
  ASSERT_TRUE(plan.ok()) << plan.status();
  const absl::Status formats = CheckGpuFormats(*plan);
  EXPECT_EQ(kernels.ok(), has_kernels) << kernels;
  EXPECT_EQ(formats, absl::OkStatus());
  if (!kernels.ok()) {
    EXPECT_THAT(std::string(kernels.message()), testing::HasSubstr("use --device cpu"));
    return;
  }
  // Models with millions of weights take half a minute each: one step, on one architecture.
  const bool is_large = SummarizeModel(*plan).Total().num_params > 1'000'000;
  if (is_large && fakegpu::Runtime::Get().arch != 90) GTEST_SKIP() << "has been executed from the PTX for Hopper";
  std::vector<Request> requests = {TraceRequest({5, 6, 7, 8, 9, 10, 11}), GenerateRequest({17, 3, 200}, 5)};
  if (is_large) requests = {TraceRequest({5, 6, 7})};
  const std::vector<RunResult> want = RunLocally(cpu, requests), got = RunLocally(gpu, requests);
  EXPECT_EQ(got[0].logits, want[0].logits);
  EXPECT_EQ(got[0].expert_idx, want[0].expert_idx);
  EXPECT_EQ(got[0].expert_weight, want[0].expert_weight);
  ASSERT_FALSE(want[0].hidden_states.empty());
  EXPECT_EQ(got[0].hidden_states, want[0].hidden_states);
  EXPECT_EQ(got[0].router_logits, want[0].router_logits);
  EXPECT_EQ(got.back().tokens, want.back().tokens);
  EXPECT_EQ(got.back().logprobs, want.back().logprobs);
}

}  // namespace
}  // namespace tokenferry

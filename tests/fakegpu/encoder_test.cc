// A model with an encoder (Switch) on the fake GPU: both stacks have the CPU's bits, drops included, and the texts are
// those that transformers writes (tests/data/encoder_decoder).
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>

#include "core/device/cuda_device.h"
#include "tests/runtime/engine/engine_runner.h"

namespace tokenferry {
namespace {

class EncoderOnGpu : public testing::Test {
 protected:
  EncoderOnGpu() : prompts_(nlohmann::json::parse(std::ifstream(dir() + "/golden.json")).at("prompts")) {}

  static std::string dir() { return SourceDir() + "/tests/data/encoder_decoder/switch_transformers_capacity"; }

  static RunSetup Cpu(Compute compute) {
    RunSetup setup;
    setup.model_dir = dir();
    setup.engine.compute = compute;
    setup.engine.prefill_chunk = 64;
    setup.engine.encoder_tokens_per_rank = 64;
    setup.engine.cache_tokens_per_rank = 512;
    return setup;
  }
  static RunSetup Gpu(Compute compute, int num_ranks, ExchangePath path) {
    RunSetup setup = Cpu(compute);
    setup.num_ranks = num_ranks;
    setup.engine.moe.exchange.path = path;
    setup.make_device = [next = std::make_shared<std::atomic<int>>(0)] {
      return CreateCudaDevice({.ordinal = (*next)++});
    };
    return setup;
  }

  std::vector<int32_t> Ids(const std::string& prompt, const char* which) const {
    return prompts_.at(prompt).at(which).get<std::vector<int32_t>>();
  }
  Request Trace(const std::string& prompt) const {
    return WithDecoder(TraceRequest(Ids(prompt, "input_ids")), Ids(prompt, "decoder_input_ids"));
  }

  nlohmann::json prompts_;
};

bool HaveSameBits(const std::vector<float>& got, const std::vector<float>& want) {
  return !want.empty() && got.size() == want.size() &&
         std::memcmp(got.data(), want.data(), want.size() * sizeof(float)) == 0;
}

int64_t NumDropped(const RunResult& r) { return std::count(r.expert_idx.begin(), r.expert_idx.end(), -1); }

void ExpectSameStack(const RunResult& got, const RunResult& want) {
  EXPECT_TRUE(HaveSameBits(got.hidden_states, want.hidden_states));
  EXPECT_TRUE(HaveSameBits(got.router_logits, want.router_logits));
  EXPECT_TRUE(HaveSameBits(got.expert_weight, want.expert_weight));
  EXPECT_EQ(got.expert_idx, want.expert_idx);
  EXPECT_GT(NumDropped(got), 0);
}

void ExpectSameTrace(const RunResult& got, const RunResult& want) {
  EXPECT_TRUE(HaveSameBits(got.logits, want.logits));
  ExpectSameStack(got, want);
  ASSERT_EQ(got.encoder.size(), 1);
  ASSERT_EQ(want.encoder.size(), 1);
  ExpectSameStack(got.encoder[0], want.encoder[0]);
}

const struct {
  int num_ranks;
  ExchangePath path;
} kEncoderJobs[] = {{1, ExchangePath::kPeer}, {2, ExchangePath::kPeer}, {2, ExchangePath::kAllToAllV}};

TEST_F(EncoderOnGpu, HasTheBitsOfTheCpuAndTheGoldenTexts) {
  std::vector<Request> requests = {Trace("long")};
  for (const char* p : {"short", "long"}) requests.push_back(GenerateRequest(Ids(p, "input_ids"), 24));
  const std::vector<RunResult> want = RunLocally(Cpu(Compute::kF32), requests);
  for (const auto& job : kEncoderJobs) {
    SCOPED_TRACE(testing::Message() << job.num_ranks << " ranks, path " << static_cast<int>(job.path));
    const std::vector<RunResult> got = RunLocally(Gpu(Compute::kF32, job.num_ranks, job.path), requests);
    ExpectSameTrace(got[0], want[0]);
    EXPECT_EQ(got[1].tokens, Ids("short", "greedy"));
    EXPECT_EQ(got[2].tokens, Ids("long", "greedy"));
    for (size_t i = 1; i < requests.size(); ++i) EXPECT_TRUE(HaveSameBits(got[i].logprobs, want[i].logprobs)) << i;
  }
}

TEST_F(EncoderOnGpu, HasBitsOfItsOwnInBF16HoweverItRuns) {
  RunSetup whole = Gpu(Compute::kBF16, 1, ExchangePath::kPeer);
  const RunResult want = RunLocally(whole, {Trace("long")})[0];
  RunSetup chunks = Gpu(Compute::kBF16, 2, ExchangePath::kAllToAllV);
  chunks.engine.prefill_chunk = 7;
  chunks.placement_seed = 3;
  ExpectSameTrace(RunLocally(chunks, {Trace("long")})[0], want);
}

}  // namespace
}  // namespace tokenferry

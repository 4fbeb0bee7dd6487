// A model with an encoder (Switch) against what transformers computes in float32 from the same tiny checkpoint, whose
// experts take five tokens of a sequence (tests/data/encoder_decoder).
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "runtime/checkpoint/safetensors.h"
#include "runtime/engine/memory_plan.h"
#include "runtime/families/families.h"
#include "tests/runtime/engine/engine_runner.h"

namespace tokenferry {
namespace {

const char* const kPrompts[] = {"short", "long"};

class EncoderDecoder : public testing::Test {
 protected:
  void SetUp() override {
    auto file = SafetensorsFile::Open(dir() + "/golden.safetensors");
    ASSERT_TRUE(file.ok()) << file.status();
    file_ = *std::move(file);
    golden_ = nlohmann::json::parse(std::ifstream(dir() + "/golden.json"));
  }

  static std::string dir() { return SourceDir() + "/tests/data/encoder_decoder/switch_transformers_capacity"; }
  static RunSetup Standard() {
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

  Request Trace(const std::string& prompt) const {
    return WithDecoder(TraceRequest(Tensor<int32_t>(prompt + ".input_ids")),
                       Tensor<int32_t>(prompt + ".decoder_input_ids"));
  }
  Request Generate(const std::string& prompt, int64_t max_new_tokens) const {
    return GenerateRequest(Tensor<int32_t>(prompt + ".input_ids"), max_new_tokens);
  }

  // Within the reference's own noise: tests/data/families/README.md.
  void ExpectNear(const std::vector<float>& got, const std::string& name, double absolute, double relative) const {
    const auto want = Tensor<float>(name);
    ASSERT_EQ(got.size(), want.size()) << name;
    double worst = 0;
    for (size_t i = 0; i < got.size(); ++i) {
      const double allowed = absolute + relative * std::abs(static_cast<double>(want[i]));
      const double share = std::abs(static_cast<double>(got[i]) - want[i]) / allowed;
      worst = std::isnan(share) ? HUGE_VAL : std::max(worst, share);
    }
    std::printf("| switch_transformers_capacity | %-22s | %5.1f %% of the tolerance |\n", name.c_str(), 100 * worst);
    EXPECT_LE(worst, 1) << name;
  }

  void ExpectStack(const RunResult& got, const std::string& name) const {
    ExpectNear(got.hidden_states, name + ".hidden_states", 2e-4, 1e-4);
    ExpectNear(got.router_logits, name + ".router_logits", 1e-4, 0);
    EXPECT_EQ(got.expert_idx, Tensor<int32_t>(name + ".expert_index")) << name;
    ExpectNear(got.expert_weight, name + ".expert_weight", 1e-4, 1e-4);
  }

  static bool SameBits(const std::vector<float>& got, const std::vector<float>& want) {
    return !want.empty() && got.size() == want.size() &&
           std::memcmp(got.data(), want.data(), want.size() * sizeof(float)) == 0;
  }

  // All of it.
  static void ExpectSame(const RunResult& got, const RunResult& want, const std::string& what) {
    EXPECT_TRUE(SameBits(got.logits, want.logits)) << what;
    EXPECT_TRUE(SameBits(got.hidden_states, want.hidden_states)) << what;
    EXPECT_TRUE(SameBits(got.router_logits, want.router_logits)) << what;
    EXPECT_EQ(got.expert_idx, want.expert_idx) << what;
    ASSERT_EQ(got.encoder.size(), 1);
    EXPECT_TRUE(SameBits(got.encoder[0].hidden_states, want.encoder[0].hidden_states)) << what;
    EXPECT_EQ(got.encoder[0].expert_idx, want.encoder[0].expert_idx) << what;
  }

  std::unique_ptr<SafetensorsFile> file_;
  nlohmann::json golden_;
};

TEST_F(EncoderDecoder, AgreesWithTransformersInFloat32) {
  std::vector<Request> requests;
  for (const char* p : kPrompts) requests.push_back(Trace(p));
  for (const char* p : kPrompts) requests.push_back(Generate(p, 24));
  RunSetup setup = Standard();
  setup.num_ranks = 2;
  const auto results = RunLocally(setup, requests);
  for (size_t i = 0; i < 2; ++i) {
    const std::string prompt = kPrompts[i];
    ExpectNear(results[i].logits, prompt + ".logits", 2e-4, 1e-4);
    ExpectStack(results[i], prompt + ".decoder");
    ASSERT_EQ(results[i].encoder.size(), 1);
    ExpectStack(results[i].encoder[0], prompt + ".encoder");
    // Capacity counts the whole sequence however it is cut, as where transformers computes it again for every token.
    EXPECT_EQ(results[2 + i].tokens, golden_["prompts"][prompt]["greedy"].get<std::vector<int32_t>>());
  }
  const auto dropped = [](const RunResult& r) { return std::count(r.expert_idx.begin(), r.expert_idx.end(), -1); };
  EXPECT_GT(dropped(results[1]), 0);
  EXPECT_GT(dropped(results[1].encoder[0]), 0);
}

// Bit for bit: ranks, chunks, company, rounds, instruction set; and nothing but operations touches device memory.
TEST_F(EncoderDecoder, BitsDoNotDependOnHowItRuns) {
  for (const Compute compute : {Compute::kF32, Compute::kBF16}) {
    RunSetup whole = Standard();
    whole.engine.compute = compute;
    const RunResult want = RunLocally(whole, {Trace("long")})[0];
    ASSERT_FALSE(want.hidden_states.empty());
    RunSetup chunks = whole;
    chunks.engine.prefill_chunk = 7;
    chunks.num_ranks = 2;
    ExpectSame(RunLocally(chunks, {Trace("long")})[0], want, "chunks of 7, 2 ranks");
    RunSetup single = whole;
    single.engine.prefill_chunk = 1;
    single.num_ranks = 3;
    single.placement_seed = 5;
    ExpectSame(RunLocally(single, {Trace("long")})[0], want, "token by token, 3 ranks");
    RunSetup company = whole;
    company.engine.prefill_chunk = 16;
    company.engine.encoder_tokens_per_rank = 60;  // of both lengths, but not of two long ones
    const auto together =
        RunLocally(company, {Trace("short"), Trace("long"), Generate("short", 20), Trace("long"), Generate("long", 9)});
    ExpectSame(together[1], want, "in company");
    ExpectSame(together[3], want, "in company, again");
    EXPECT_EQ(together[2].tokens, RunLocally(whole, {Generate("short", 20)})[0].tokens);
    RunSetup rounds = whole;
    rounds.num_ranks = 2;
    rounds.engine.moe.exchange_budget = 1024 * 64;
    ExpectSame(RunLocally(rounds, {Trace("long")})[0], want, "in rounds");
    RunSetup trap = whole;
    trap.device.execution = CpuExecution::kLazy;
    trap.device.memory = CpuMemory::kTrap;
    ExpectSame(RunLocally(trap, {Trace("long")})[0], want, "lazy device, trapped memory");
    if (compute == Compute::kBF16) continue;  // its products have an order of their own on AVX-512
    RunSetup portable = whole;
    portable.portable_isa = true;
    ExpectSame(RunLocally(portable, {Trace("long")})[0], want, "portable");
  }
}

// A cache of three blocks, of which each sequence ends up with two: the younger ones are preempted and read again.
TEST_F(EncoderDecoder, PreemptionChangesNoToken) {
  const std::vector<Request> requests = {Generate("long", 100), Generate("short", 90), Generate("long", 80)};
  std::vector<RunResult> want;
  for (const Request& r : requests) want.push_back(RunLocally(Standard(), {r})[0]);
  RunSetup narrow = Standard();
  narrow.engine.cache_tokens_per_rank = 3 * kCacheBlockTokens;
  const RunOutcome run = RunAndCount(narrow, requests);
  EXPECT_GT(run.scheduler.num_preemptions, 0);
  EXPECT_EQ(run.scheduler.prefix_hit_tokens, 0);  // keys follow from what the encoder has read, too
  for (size_t i = 0; i < requests.size(); ++i) {
    EXPECT_EQ(run.results[i].tokens, want[i].tokens) << i;
    EXPECT_EQ(run.results[i].logprobs, want[i].logprobs) << i;
  }
}

// The same weights with room for all: nobody is dropped, and the first tokens, who had room before, get the same.
TEST_F(EncoderDecoder, ACapacityThatDoesNotBindDropsNobody) {
  const auto folder = std::filesystem::path(testing::TempDir()) / absl::StrCat("switch_", getpid());
  std::filesystem::create_directory(folder);
  std::filesystem::create_symlink(dir() + "/model.safetensors", folder / "model.safetensors");
  nlohmann::json config = nlohmann::json::parse(std::ifstream(dir() + "/config.json"));
  config["expert_capacity"] = 64;
  std::ofstream(folder / "config.json") << config;
  RunSetup wide = Standard();
  wide.model_dir = folder.string();
  const RunResult all = RunLocally(wide, {Trace("long")})[0], some = RunLocally(Standard(), {Trace("long")})[0];
  std::filesystem::remove_all(folder);
  for (const auto& idx : {all.expert_idx, all.encoder[0].expert_idx})
    EXPECT_EQ(std::count(idx.begin(), idx.end(), -1), 0);
  EXPECT_FALSE(SameBits(all.logits, some.logits));
  // In the encoder's first MoE layer nothing has been dropped before: where a token is kept, it is the same choice.
  const auto &wide_idx = all.encoder[0].expert_idx, &narrow_idx = some.encoder[0].expert_idx;
  for (size_t t = 0; t < wide_idx.size() / 2; ++t) {
    if (narrow_idx[t] >= 0) {
      EXPECT_EQ(narrow_idx[t], wide_idx[t]) << t;
    }
  }
}

TEST_F(EncoderDecoder, WhatCannotBeIsRefused) {
  const auto error_of = [&](RunSetup setup, const Request& request) {
    std::string message;
    RunRanks(1, absl::Seconds(60), [&](Transport& transport) {
      message = std::string(RunRank(transport, setup, {request}).status().message());
      return absl::OkStatus();
    });
    return message;
  };
  RunSetup narrow = Standard();
  narrow.engine.encoder_tokens_per_rank = 40;
  EXPECT_EQ(error_of(narrow, Trace("long")),
            "a prompt of 50 tokens is read in one step, but a rank takes 40 in a step");
  Request scored = Generate("short", 3);
  scored.prompt_scores = Wanted::kYes;
  EXPECT_EQ(error_of(Standard(), scored), "scores of the prompt: the model reads it with an encoder, which has none");
  RunSetup other;
  EXPECT_EQ(error_of(other, WithDecoder(LogitsRequest({1, 2}), {3})),
            "the model has no decoder input: it has no encoder");
  RunSetup halves = Standard();
  halves.engine.overlap = Overlap::kTwoBatch;
  EXPECT_EQ(error_of(halves, Trace("short")).substr(0, 20), "overlap two_batch: a");
  RunSetup capacity = Standard();
  capacity.engine.moe.overflow.kind = Overflow::kCapacity;
  EXPECT_EQ(error_of(capacity, Trace("short")).substr(0, 37), "overflow: experts of this model take ");
}

// Own keys of four decoder layers, keys of the encoder's output for each of them, and one layer's of the encoder
// itself.
TEST_F(EncoderDecoder, CacheRowsAreDeclared) {
  const auto model = LoadModelSpec(dir());
  ASSERT_TRUE(model.ok());
  const EngineOptions options{.compute = Compute::kF32, .cache_tokens_per_rank = 640};
  const KvCacheOptions cache = Engine::CacheOptions(*model, options);
  EXPECT_EQ(cache.layers.size(), 9);
  EXPECT_EQ(KvCache::BytesPerToken(cache), 9 * 2 * 64 * 4);
}

}  // namespace
}  // namespace tokenferry

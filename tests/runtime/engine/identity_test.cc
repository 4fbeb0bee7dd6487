// One meaning everywhere: the bits of logits and routing do not depend on ranks, placement, path of the exchange,
// batch, chunk, threads or the mode of the device.
#include <gtest/gtest.h>

#include "tests/runtime/engine/engine_runner.h"
#include "tests/support/device_cases.h"

namespace tokenferry {
namespace {

// Of one domain's held-out text: 150 tokens cross two boundaries of the attention's key blocks.
std::vector<int32_t> Text(const std::string& domain, size_t window, size_t length) {
  auto ids = ReadPrompts("ferry-tiny-v3/heldout_" + domain + ".json").at(window);
  ids.resize(length);
  return ids;
}

const std::vector<int32_t>& Prompt() {
  static const auto* prompt = new auto(Text("source", 3, 150));
  return *prompt;
}

class Identity : public testing::TestWithParam<Compute> {
 protected:
  RunSetup Base() const {
    RunSetup setup;
    setup.engine.compute = GetParam();
    return setup;
  }

  // One rank, one thread, eager, whole prompt, alone.
  const RunResult& Expected() const {
    static std::map<Compute, RunResult> results;
    auto [it, fresh] = results.try_emplace(GetParam());
    if (fresh) it->second = RunLocally(Base(), {LogitsRequest(Prompt())})[0];
    return it->second;
  }

  void ExpectSame(const RunSetup& setup, const std::vector<Request>& requests = {LogitsRequest(Prompt())},
                  size_t which = 0) {
    const RunResult got = RunLocally(setup, requests).at(which);
    ASSERT_FALSE(Expected().logits.empty());
    EXPECT_TRUE(SameBits(got.logits, Expected().logits));
    EXPECT_TRUE(SameBits(got.expert_idx, Expected().expert_idx));
    EXPECT_TRUE(SameBits(got.expert_weight, Expected().expert_weight));
  }
};

TEST_P(Identity, RankCounts) {
  for (int ranks : {2, 3, 4, 5, 8}) {
    SCOPED_TRACE(ranks);
    RunSetup setup = Base();
    setup.num_ranks = ranks;
    ExpectSame(setup);
  }
}

// The other tests take the automatic path, which is peer where ranks are threads.
TEST_P(Identity, Paths) {
  for (int ranks : {1, 3, 8}) {
    SCOPED_TRACE(ranks);
    RunSetup setup = Base();
    setup.num_ranks = ranks;
    setup.engine.moe.exchange.path = ExchangePath::kAllToAllV;
    ExpectSame(setup);
  }
  for (const ExchangePath path : {ExchangePath::kAllToAllV, ExchangePath::kPeer}) {
    SCOPED_TRACE(ExchangePathName(path));
    RunSetup setup = Base();
    setup.num_ranks = 3;
    setup.engine.moe.exchange.path = path;
    setup.placement_seed = 3;
    setup.engine.prefill_chunk = 64;
    setup.device.execution = CpuExecution::kLazy;
    ExpectSame(setup);
  }
}

// What is computed while rows travel, and how many rounds they take, changes nothing; on any path.
TEST_P(Identity, OverlapAndRounds) {
  std::vector<Request> requests = {LogitsRequest(Prompt())};
  for (size_t i = 0; i < 3; ++i) requests.push_back(LogitsRequest(Text("docs", i, 20 + 31 * i)));
  constexpr int64_t kManyRounds = 2'000'000;  // a few tokens per rank and round
  for (const PathInfo* info : kExchangePaths) {
    const ExchangePath path = info->path;
    for (const Overlap overlap : {Overlap::kShared, Overlap::kTwoBatch}) {
      for (const int64_t budget : {int64_t{0}, kManyRounds}) {
        SCOPED_TRACE(absl::StrCat(ExchangePathName(path), " overlap ", static_cast<int>(overlap), " budget ", budget));
        RunSetup setup = Base();
        setup.num_ranks = path == ExchangePath::kAllToAllV ? 2 : 3;
        setup.engine.moe.exchange.path = path;
        setup.engine.overlap = overlap;
        setup.engine.moe.exchange_budget = budget;
        setup.placement_seed = budget > 0 ? 5 : -1;
        setup.device.execution = overlap == Overlap::kShared ? CpuExecution::kEager : CpuExecution::kLazy;
        ExpectSame(setup, requests, 0);
      }
    }
  }
}

TEST_P(Identity, MoreRanksThanExperts) {
  RunSetup setup = Base();
  setup.num_ranks = 40;
  setup.engine.cache_tokens_per_rank = 256;
  ExpectSame(setup);
}

TEST_P(Identity, RandomPlacements) {
  for (int seed = 1; seed <= 4; ++seed) {
    SCOPED_TRACE(seed);
    RunSetup setup = Base();
    setup.num_ranks = 1 + seed;
    setup.placement_seed = seed;
    ExpectSame(setup);
  }
}

TEST_P(Identity, InABatchWithSevenOthers) {
  std::vector<Request> requests;
  for (size_t i = 0; i < 7; ++i) requests.push_back(LogitsRequest(Text(i % 2 ? "bible" : "docs", i, 20 + 31 * i)));
  requests.insert(requests.begin() + 4, LogitsRequest(Prompt()));
  for (int ranks : {1, 3}) {
    SCOPED_TRACE(ranks);
    RunSetup setup = Base();
    setup.num_ranks = ranks;
    ExpectSame(setup, requests, 4);
  }
}

TEST_P(Identity, PrefillChunks) {
  for (int64_t chunk : {1, 7, 64}) {
    SCOPED_TRACE(chunk);
    RunSetup setup = Base();
    setup.num_ranks = 2;
    setup.engine.prefill_chunk = chunk;
    ExpectSame(setup);
  }
}

TEST_P(Identity, Threads) {
  for (int threads : {2, 3}) {
    SCOPED_TRACE(threads);
    RunSetup setup = Base();
    setup.device.num_threads = threads;
    ExpectSame(setup);
  }
}

TEST_P(Identity, LazyDevice) {
  RunSetup setup = Base();
  setup.num_ranks = 3;
  setup.device.execution = CpuExecution::kLazy;
  ExpectSame(setup);
}

TEST_P(Identity, TrapDevice) {
  RunSetup setup = Base();
  setup.num_ranks = 2;
  setup.device.memory = CpuMemory::kTrap;
  ExpectSame(setup);
}

TEST_P(Identity, LazyTrapDeviceInChunks) {
  RunSetup setup = Base();
  setup.num_ranks = 2;
  setup.engine.prefill_chunk = 64;
  setup.device.execution = CpuExecution::kLazy;
  setup.device.memory = CpuMemory::kTrap;
  ExpectSame(setup);
}

// The text of a sampled continuation is part of the meaning too.
TEST_P(Identity, SampledTokens) {
  SamplingParams sampling;
  sampling.temperature = 0.9;
  sampling.top_p = 0.9;
  sampling.repetition_penalty = 1.1;
  sampling.seed = 11;
  const Request request = GenerateRequest(Text("bible", 0, 40), 32, sampling);
  const auto want = RunLocally(Base(), {request})[0].tokens;
  ASSERT_EQ(want.size(), 32u);
  RunSetup setup = Base();
  setup.num_ranks = 3;
  setup.engine.prefill_chunk = 16;
  const auto batch = RunLocally(setup, {GenerateRequest(Text("docs", 1, 10), 8), request, request});
  EXPECT_EQ(batch[1].tokens, want);
  EXPECT_EQ(batch[2].tokens, want);
}

// Capacity counts the tokens of all ranks, so the drops are the same too.
TEST_P(Identity, CapacityDropsDoNotDependOnRanks) {
  std::vector<Request> requests;
  for (size_t i = 0; i < 4; ++i) requests.push_back(LogitsRequest(Text("docs", i, 48)));
  RunSetup setup = Base();
  setup.engine.moe.overflow.kind = Overflow::kCapacity;
  setup.engine.moe.overflow.capacity_factor = 0.5;
  const auto want = RunLocally(setup, requests);
  EXPECT_NE(std::count(want[3].expert_idx.begin(), want[3].expert_idx.end(), -1), 0);
  EXPECT_FALSE(SameBits(want[0].logits, RunLocally(Base(), requests)[0].logits));
  setup.num_ranks = 4;  // one sequence each, in order: the same global token order
  const auto got = RunLocally(setup, requests);
  for (size_t i = 0; i < 4; ++i) {
    EXPECT_TRUE(SameBits(got[i].expert_idx, want[i].expert_idx)) << i;
    EXPECT_TRUE(SameBits(got[i].logits, want[i].logits)) << i;
  }
}

INSTANTIATE_TEST_SUITE_P(Compute, Identity, testing::Values(Compute::kF32, Compute::kBF16),
                         [](const auto& info) { return info.param == Compute::kF32 ? "f32" : "bf16"; });

// In f32 the plain reference kernels and every instruction set give the same bits as the fast ones.
TEST(IdentityF32, ReferenceKernelsAndInstructionSets) {
  auto ids = Prompt();
  ids.resize(40);
  RunSetup setup;
  const RunResult want = RunLocally(setup, {LogitsRequest(ids)})[0];
  setup.device.kernels = KernelSet::kReference;
  EXPECT_TRUE(SameBits(RunLocally(setup, {LogitsRequest(ids)})[0].logits, want.logits)) << "reference";
  setup.device.kernels = KernelSet::kFast;
  for (Isa isa : {Isa::kPortable, Isa::kNeon, Isa::kAvx2, Isa::kAvx512}) {
    if ((SupportedIsas() & (1u << static_cast<int>(isa))) == 0) continue;
    setup.device.isa = isa;
    setup.portable_isa = isa == Isa::kPortable;
    EXPECT_TRUE(SameBits(RunLocally(setup, {LogitsRequest(ids)})[0].logits, want.logits)) << IsaName(isa);
  }
}

}  // namespace
}  // namespace tokenferry

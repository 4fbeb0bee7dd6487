// Decode steps as graphs, on the fake GPU: the CPU's tokens and probabilities, whatever the number of ranks and
// sequences, and what the host calls meanwhile.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <memory>

#include "core/device/cuda_device.h"
#include "runtime/engine/engine.h"
#include "runtime/engine/logit_rows.h"
#include "tests/fakegpu/cudart/runtime.h"
#include "tests/runtime/engine/engine_runner.h"

namespace tokenferry {
namespace {

RunSetup SetupOf(int num_ranks, Compute compute, ExchangePath path) {
  RunSetup setup;
  setup.model_dir = SourceDir() + "/tests/data/families/deepseek_v3";  // small: what takes seconds to interpret
  setup.num_ranks = num_ranks;
  setup.engine.compute = compute;
  setup.engine.moe.exchange.path = path;
  setup.engine.prefill_chunk = 16;
  setup.engine.max_sequences_per_rank = 4;
  setup.engine.cache_tokens_per_rank = 512;
  // A GPU for each rank: ranks that are threads and share one may wait for each other where memory is freed.
  setup.make_device = [next = std::make_shared<std::atomic<int>>(0)] {
    return CreateCudaDevice({.ordinal = (*next)++});
  };
  return setup;
}

// Sequences that end one after the other, so that steps of 4, 2 and 1 rows follow; one stands alone on its rank.
std::vector<Request> Requests() {
  return {GenerateRequest({5, 6, 7}, 7), GenerateRequest({9}, 5), GenerateRequest({11, 3}, 9),
          GenerateRequest({200, 4}, 6)};
}

void ExpectSame(const std::vector<RunResult>& got, const std::vector<RunResult>& want) {
  for (size_t i = 0; i < want.size(); ++i) {
    EXPECT_EQ(got[i].tokens, want[i].tokens) << "sequence " << i;
    EXPECT_EQ(got[i].logprobs, want[i].logprobs) << "sequence " << i;
  }
}

int NumCalls(const std::vector<std::string>& trace, const std::string& name) {
  return static_cast<int>(std::count(trace.begin(), trace.end(), name));
}

std::vector<std::string> TraceOf(const RunSetup& setup, const std::vector<Request>& requests,
                                 std::vector<RunResult>& results) {
  std::vector<std::string> trace;
  fakegpu::Runtime& runtime = fakegpu::Runtime::Get();
  runtime.trace = &trace;
  results = RunLocally(setup, requests);
  runtime.trace = nullptr;
  return trace;
}

TEST(GraphStepTest, HasTheBitsOfTheCpu) {
  RunSetup cpu = SetupOf(1, Compute::kF32, ExchangePath::kAuto);
  cpu.make_device = nullptr;
  const std::vector<RunResult> want = RunLocally(cpu, Requests());
  for (const int num_ranks : {1, 2, 3}) {
    SCOPED_TRACE(testing::Message() << num_ranks << " ranks");
    std::vector<RunResult> got;
    const auto trace = TraceOf(SetupOf(num_ranks, Compute::kF32, ExchangePath::kAuto), Requests(), got);
    ExpectSame(got, want);
    EXPECT_GT(NumCalls(trace, "cudaGraphLaunch"), 0);
  }
}

TEST(GraphStepTest, HasTheBitsOfEagerStepsByMessagesInBF16) {
  std::vector<RunResult> eager;
  const auto trace = TraceOf(SetupOf(1, Compute::kBF16, ExchangePath::kAllToAllV), Requests(), eager);
  EXPECT_EQ(NumCalls(trace, "cudaGraphLaunch"), 0);
  for (const int num_ranks : {1, 2, 3}) {
    SCOPED_TRACE(testing::Message() << num_ranks << " ranks");
    RunSetup setup = SetupOf(num_ranks, Compute::kBF16, ExchangePath::kPeer);
    if (num_ranks == 2) setup.engine.overlap = Overlap::kTwoBatch;
    std::vector<RunResult> graphs;
    const auto graph_trace = TraceOf(setup, Requests(), graphs);
    EXPECT_GT(NumCalls(graph_trace, "cudaGraphLaunch"), 0);
    ExpectSame(graphs, eager);
  }
}

// Gated delta nets: rows behind a rank's tokens, as with three sequences in a step of four, touch no state.
TEST(GraphStepTest, KeepsTheStatesOfSequences) {
  const auto setup = [](int num_ranks) {
    RunSetup setup = SetupOf(num_ranks, Compute::kF32, ExchangePath::kAuto);
    setup.model_dir = SourceDir() + "/tests/data/families/qwen3_next";
    return setup;
  };
  RunSetup cpu = setup(1);
  cpu.make_device = nullptr;
  const std::vector<RunResult> want = RunLocally(cpu, Requests());
  for (const int num_ranks : {1, 2}) {
    SCOPED_TRACE(testing::Message() << num_ranks << " ranks");
    std::vector<RunResult> got;
    const auto trace = TraceOf(setup(num_ranks), Requests(), got);
    ExpectSame(got, want);
    EXPECT_GT(NumCalls(trace, "cudaGraphLaunch"), 0);
  }
}

// The placements of identity_test.
TEST(GraphStepTest, HasTheSameBitsForAnyPlacement) {
  for (const Compute compute : {Compute::kF32, Compute::kBF16}) {
    RunSetup alone = SetupOf(1, compute, ExchangePath::kAllToAllV);
    if (compute == Compute::kF32) alone.make_device = nullptr;  // a CPU's bf16 products have bits of their own
    const std::vector<RunResult> want = RunLocally(alone, Requests());
    for (int seed = 1; seed <= 4; ++seed) {
      SCOPED_TRACE(testing::Message() << "seed " << seed);
      RunSetup setup = SetupOf(1 + seed, compute, seed % 2 == 0 ? ExchangePath::kAllToAllV : ExchangePath::kPeer);
      setup.placement_seed = seed;
      ExpectSame(RunLocally(setup, Requests()), want);
    }
  }
}

// Greedy and top-k, a choice that needs all logits (a bias), and one among more tokens than a summary has.
TEST(GraphStepTest, SamplesAsTheCpuDoes) {
  const auto sampled = [](double temperature, int top_k, double top_p) {
    SamplingParams p{.temperature = temperature, .top_k = top_k, .top_p = top_p, .seed = 7};
    p.num_top_logprobs = 3;
    return p;
  };
  SamplingParams biased = sampled(0.8, 5, 1);
  biased.logit_bias = {{9, 2.5}};
  const std::vector<Request> requests = {GenerateRequest({5, 6, 7}, 8, sampled(0.9, 40, 0.95)),
                                         GenerateRequest({9}, 8, sampled(0, 0, 1)), GenerateRequest({11, 3}, 8, biased),
                                         GenerateRequest({200, 4}, 8, sampled(1.2, 0, 0.9))};
  RunSetup cpu = SetupOf(1, Compute::kF32, ExchangePath::kAuto);
  cpu.make_device = nullptr;
  const std::vector<RunResult> want = RunLocally(cpu, requests);
  ExpectSame(RunLocally(SetupOf(2, Compute::kF32, ExchangePath::kAuto), requests), want);
}

// More sequences than logits are computed for at once.
TEST(GraphStepTest, HoldsManySequences) {
  constexpr int kSequences = Transformer::kLogitRows + 3;
  std::vector<Request> requests;
  for (int i = 0; i < kSequences; ++i) requests.push_back(GenerateRequest({3 + i}, 4));
  RunSetup setup = SetupOf(1, Compute::kF32, ExchangePath::kAuto);
  setup.engine.prefill_chunk = kSequences;
  setup.engine.max_sequences_per_rank = kSequences;
  setup.engine.cache_tokens_per_rank = kSequences * 64;
  RunSetup cpu = setup;
  cpu.make_device = nullptr;
  std::vector<RunResult> got;
  const auto trace = TraceOf(setup, requests, got);
  EXPECT_GE(NumCalls(trace, "cudaGraphLaunch"), 2);
  ExpectSame(got, RunLocally(cpu, requests));
}

bool IsWait(const std::string& call) {
  return call == "cudaStreamSynchronize" || call == "cudaStreamQuery" || call == "cudaDeviceSynchronize";
}

// Of each step that launches a graph and makes none: what the host calls from the wait before it, which ended the last
// step, to the one for its logits.
std::vector<std::vector<std::string>> GraphSteps(const std::vector<std::string>& trace) {
  std::vector<std::vector<std::string>> steps;
  for (auto launch = trace.begin(); (launch = std::find(launch, trace.end(), "cudaGraphLaunch")) != trace.end();
       ++launch) {
    auto begin = launch;
    while (begin != trace.begin() && !IsWait(*(begin - 1))) --begin;
    std::vector<std::string> calls(begin, std::find_if(launch, trace.end(), IsWait));
    if (NumCalls(calls, "cudaStreamBeginCapture") == 0) steps.push_back(std::move(calls));
  }
  return steps;
}

// A table of all blocks of the cache for each sequence would not pass through the memory that copies are staged in: the
// host would wait for it. Two sequences get their second block while steps are graphs.
TEST(GraphStepTest, UploadsTablesAsLongAsTheLongestSequence) {
  constexpr int64_t kSequences = 64, kBlocks = (int64_t{4} << 20) / sizeof(int32_t) / kSequences + 1;
  std::vector<Request> requests;
  for (int i = 0; i < kSequences; ++i) {
    requests.push_back(GenerateRequest(std::vector<int32_t>(i < 2 ? 60 : 1, 3 + i), 9));
  }
  RunSetup setup = SetupOf(1, Compute::kF32, ExchangePath::kAuto);
  setup.engine.prefill_chunk = 256;
  setup.engine.max_sequences_per_rank = kSequences;
  setup.engine.cache_tokens_per_rank = kBlocks * kCacheBlockTokens;
  RunSetup cpu = setup;
  cpu.make_device = nullptr;
  cpu.engine.cache_tokens_per_rank = 2 * kSequences * kCacheBlockTokens;
  std::vector<RunResult> got;
  const auto steps = GraphSteps(TraceOf(setup, requests, got));
  EXPECT_GE(steps.size(), 3u);
  for (const auto& calls : steps) EXPECT_GE(NumCalls(calls, "cudaMemcpyAsync"), 5) << "none of them was waited for";
  ExpectSame(got, RunLocally(cpu, requests));
}

// What the check of a GPU's memory counts for logits is what they take there.
TEST(GraphStepTest, LogitsTakeWhatIsPlanned) {
  constexpr int64_t kGranule = 4096;  // the fake's
  const auto device = CreateCudaDevice({.ordinal = 0});
  ASSERT_TRUE(device.ok()) << device.status();
  for (const int64_t num_sequences : {1, 64, 65, 200}) {
    const EngineOptions options{.max_sequences_per_rank = num_sequences};
    const int64_t num_rows = Engine::MostLogitRows(options, DeviceKind::kCuda);
    EXPECT_GE(num_rows, std::max<int64_t>(Transformer::kLogitRows, num_sequences));
    const int64_t before = *AvailableGpuBytes(0);
    const auto rows = LogitRows::Create(**device, 2304, num_rows);
    ASSERT_TRUE(rows.ok()) << rows.status();
    const int64_t taken = before - *AvailableGpuBytes(0);
    EXPECT_GE(taken, LogitRows::NumBytes(DeviceKind::kCuda, 2304, num_rows));
    EXPECT_LE(taken, LogitRows::NumBytes(DeviceKind::kCuda, 2304, num_rows) + 2 * kGranule);
  }
}

// A policy asks the host in every layer.
TEST(GraphStepTest, IsNoneUnderAPolicy) {
  RunSetup setup = SetupOf(1, Compute::kF32, ExchangePath::kPeer);
  setup.engine.moe.overflow = {.kind = Overflow::kCapacity, .capacity_factor = 8};
  std::vector<RunResult> results;
  EXPECT_EQ(NumCalls(TraceOf(setup, {GenerateRequest({5, 6}, 5)}, results), "cudaGraphLaunch"), 0);
}

TEST(GraphStepTest, NeitherWaitsNorAllocatesBeforeTheLogits) {
  std::vector<RunResult> results;
  const auto trace = TraceOf(SetupOf(1, Compute::kF32, ExchangePath::kAuto), {GenerateRequest({5, 6, 7}, 12)}, results);
  const auto steps = GraphSteps(trace);
  for (const auto& calls : steps) {
    for (const std::string& call : calls) {
      EXPECT_THAT(call, testing::AnyOf("cudaSetDevice", "cudaMemcpyAsync", "cudaGraphLaunch"));
    }
    EXPECT_EQ(NumCalls(calls, "cudaGraphLaunch"), 1);
    const auto behind = std::find(calls.begin(), calls.end(), "cudaGraphLaunch");
    EXPECT_EQ(std::count(behind, calls.end(), "cudaMemcpyAsync"), 0) << "the logits stay on the device";
    EXPECT_LE(NumCalls(calls, "cudaMemcpyAsync"), 6) << "ids, sequences, positions, rows, blocks, candidates";
  }
  EXPECT_EQ(steps.size(), 9u) << "12 tokens: a prefill, a step that sizes buffers, one that captures, and the rest";
}

TEST(GraphStepTest, APrefillWaitsOnlyForItsLogits) {
  std::vector<RunResult> results;
  const auto trace =
      TraceOf(SetupOf(1, Compute::kF32, ExchangePath::kAuto), {GenerateRequest({5, 6, 7, 8}, 1)}, results);
  // All of its launches, those of every layer, lie between two waits.
  int most = 0, launches = 0, total = 0;
  for (const std::string& call : trace) {
    if (call == "cudaLaunchKernel") ++launches, ++total;
    if (call == "cudaStreamSynchronize" || call == "cudaStreamQuery") launches = 0;
    most = std::max(most, launches);
  }
  EXPECT_GT(most, 50);
  EXPECT_GT(most, total * 9 / 10);
}

}  // namespace
}  // namespace tokenferry

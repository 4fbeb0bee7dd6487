// One token chosen from the logits of a vocabulary of DeepSeek-V3's size, on one thread, CPU time. Logits are normal
// with the standard deviation `spread` (3: as models give them; 0.001: flat, so that top-p keeps most of the
// vocabulary; 0: all equal). BM_SortVocabulary is the sort that a plain sampler would begin with. Flags: Google
// Benchmark's.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <numeric>
#include <random>

#include "core/check.h"
#include "runtime/engine/sampler.h"

namespace tokenferry {
namespace {

constexpr int kVocabSize = 129280;

std::vector<float> Logits(double spread) {
  std::mt19937_64 random(20260101);
  std::normal_distribution<double> normal(0, 1);
  std::vector<float> logits(kVocabSize);
  for (float& logit : logits) logit = static_cast<float>(spread * normal(random));
  return logits;
}

constexpr double kSpreads[] = {3, 0.001, 0};

void Run(benchmark::State& state, SamplingParams params, const TokenCounts* counts = nullptr) {
  const std::vector<float> logits = Logits(kSpreads[state.range(0)]);
  state.SetLabel(absl::StrCat("spread ", kSpreads[state.range(0)]));
  Sampler sampler;
  int64_t position = 0;
  for (auto _ : state) {
    const auto token = sampler.Sample(logits, params, {.counts = counts, .position = ++position});
    TF_CHECK(token.ok());
    benchmark::DoNotOptimize(token->token);
  }
}

void BM_Greedy(benchmark::State& state) { Run(state, {}); }
void BM_Temperature(benchmark::State& state) { Run(state, {.temperature = 0.8}); }
void BM_TopP(benchmark::State& state) { Run(state, {.temperature = 0.8, .top_p = 0.95}); }
void BM_TopKTopPMinP(benchmark::State& state) {
  Run(state, {.temperature = 0.8, .top_k = 50, .top_p = 0.95, .min_p = 0.02});
}
void BM_TopPPenaltiesTopLogprobs(benchmark::State& state) {
  TokenCounts counts;  // of a history of 4,000 tokens
  for (int i = 0; i < 4000; ++i) counts.AddOutput(i * 7919 % kVocabSize);
  Run(state,
      {.temperature = 0.8, .top_p = 0.95, .presence_penalty = 0.1, .frequency_penalty = 0.1, .num_top_logprobs = 20},
      &counts);
}
BENCHMARK(BM_Greedy)->DenseRange(0, 2)->Unit(benchmark::kMicrosecond);
BENCHMARK(BM_Temperature)->DenseRange(0, 2)->Unit(benchmark::kMicrosecond);
BENCHMARK(BM_TopP)->DenseRange(0, 2)->Unit(benchmark::kMicrosecond);
BENCHMARK(BM_TopKTopPMinP)->DenseRange(0, 2)->Unit(benchmark::kMicrosecond);
BENCHMARK(BM_TopPPenaltiesTopLogprobs)->DenseRange(0, 2)->Unit(benchmark::kMicrosecond);

void BM_SortVocabulary(benchmark::State& state) {
  const std::vector<float> logits = Logits(kSpreads[state.range(0)]);
  state.SetLabel(absl::StrCat("spread ", kSpreads[state.range(0)]));
  std::vector<int32_t> order(kVocabSize);
  for (auto _ : state) {
    std::iota(order.begin(), order.end(), 0);
    std::sort(order.begin(), order.end(),
              [&](int32_t a, int32_t b) { return logits[a] != logits[b] ? logits[a] > logits[b] : a < b; });
    benchmark::DoNotOptimize(order.data());
  }
}
BENCHMARK(BM_SortVocabulary)->DenseRange(0, 2)->Unit(benchmark::kMicrosecond);

}  // namespace
}  // namespace tokenferry

BENCHMARK_MAIN();

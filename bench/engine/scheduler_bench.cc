// What rank 0 does for a step besides its share of the model, on one thread, CPU time: the scheduler's next plan, the
// plan as bytes and back (once, as every rank reads it), the ranks' results as bytes and back, and taking them.
// Sequences decode on 4 ranks, from prompts of 512 tokens of which the first 256 are common. Compare with a step of the
// model in question: `tokenferry bench engine --sequences N`, where a step takes N / (decode tokens/s). Flags: Google
// Benchmark's.
#include <benchmark/benchmark.h>

#include "core/check.h"
#include "runtime/engine/scheduler.h"

namespace tokenferry {
namespace {

constexpr int kNumRanks = 4;

void DecodeStep(Scheduler& scheduler) {
  const auto plan = DecodeStepPlan(Encode(scheduler.Next()));
  TF_CHECK(plan.ok());
  std::vector<EntryResult> all;
  for (int r = 0; r < kNumRanks; ++r) {
    RankResults mine;
    for (const StepEntry& entry : plan->entries) {
      if (entry.rank == RankId(r)) mine.entries.push_back({.seq = entry.seq, .sampled = {.token = entry.seq + 7}});
    }
    auto theirs = DecodeResults(Encode(mine));
    TF_CHECK(theirs.ok());
    for (EntryResult& result : theirs->entries) all.push_back(std::move(result));
  }
  const auto updates = scheduler.Accept(std::move(all));
  TF_CHECK(updates.ok());
  benchmark::DoNotOptimize(updates->data());
}

void BM_DecodeStep(benchmark::State& state) {
  const int64_t num_sequences = state.range(0);
  Scheduler scheduler({.num_ranks = kNumRanks,
                       .prefill_chunk = 1 << 20,
                       .max_sequences_per_rank = num_sequences,
                       .cache_tokens_per_rank = int64_t{1} << 26});
  for (int64_t i = 0; i < num_sequences; ++i) {
    Request request;
    for (int t = 0; t < 512; ++t) request.prompt.push_back(t < 256 ? t : static_cast<int32_t>(i * 1000 + t));
    request.max_new_tokens = 1 << 24;
    TF_CHECK(scheduler.Add(std::move(request)).ok());
  }
  DecodeStep(scheduler);  // all prompts
  for (auto _ : state) DecodeStep(scheduler);
}
BENCHMARK(BM_DecodeStep)->Arg(1)->Arg(32)->Arg(256)->Arg(1024)->Unit(benchmark::kMicrosecond);

// With the cache full of other beginnings: what finding a place costs.
void BM_StartPrompt(benchmark::State& state) {
  Scheduler scheduler({.num_ranks = kNumRanks, .prefill_chunk = 1 << 20, .cache_tokens_per_rank = 1 << 16});
  int32_t text = 0;
  for (auto _ : state) {
    Request request;
    for (int t = 0; t < 2000; ++t) request.prompt.push_back(t < 1000 ? t : text * 1000 + t % 1000);
    text = (text + 1) % 2000;
    request.max_new_tokens = 1;
    TF_CHECK(scheduler.Add(std::move(request)).ok());
    DecodeStep(scheduler);
  }
}
BENCHMARK(BM_StartPrompt)->Unit(benchmark::kMicrosecond);

}  // namespace
}  // namespace tokenferry

BENCHMARK_MAIN();

#include "launch/cli/bench_flags.h"

#include "launch/cli/flag_set.h"

namespace tokenferry {
namespace {

constexpr int64_t kMaxTokens = 1 << 20, kMaxHidden = 1 << 20;
constexpr int kMaxExperts = 1 << 16, kMaxTopK = 32, kMaxIters = 1 << 20;

}  // namespace

// Spelled out, so that the flags need nothing of comm but its header.
std::vector<std::pair<std::string, ExchangePath>> PathChoices() {
  return {{"auto", ExchangePath::kAuto},
          {"peer", ExchangePath::kPeer},
          {"alltoallv", ExchangePath::kAllToAllV},
          {"allgather", ExchangePath::kAllGather},
          {"two_level", ExchangePath::kTwoLevel}};
}

void DeclareBenchAllToAll(FlagSet& set, BenchAllToAllFlags* f) {
  set.Choice<std::string>(
      "preset", &f->preset, {{"none", "none"}, {"deepep-normal", "deepep-normal"}, {"deepep-ll", "deepep-ll"}},
      "a published setting: hidden 7168, top-8 of 256, fp8 dispatch, bf16 combine, and 4096 or 128 tokens");
  set.Integers("tokens", &f->tokens, 0, kMaxTokens, "tokens of every rank");
  set.Integers("hidden", &f->hidden, 1, kMaxHidden, "elements of a row");
  set.Integers("experts", &f->experts, 1, kMaxExperts, "experts; without it 256, or the trace's");
  set.Integers("top-k", &f->top_k, 1, kMaxTopK, "experts of a token; without it 8, or the trace's");
  set.Choices("dtype", &f->dtypes,
              {{"bf16", DType::kBF16}, {"f32", DType::kF32}, {"fp8", DType::kF8E4M3}, {"int8", DType::kI8}},
              "of dispatched rows");
  set.Choices("combine-dtype", &f->combine_dtypes, {{"bf16", DType::kBF16}, {"f32", DType::kF32}},
              "of expert outputs on their way back");
  set.Choices("path", &f->paths, PathChoices(), "paths of the exchange");
  set.Choices("reduction", &f->reductions, {{"exact", Reduction::kExact}, {"node", Reduction::kNode}},
              "of paths two_level and auto: sums at home, or on each host first");
  set.Words("placement", &f->placements, "linear, random:SEED, or a JSON file");
  set.Words("traffic", &f->traffics, "uniform, zipf:S, hot:N, grouped, grouped:GROUPS:KEPT, silent-rank, trace:FILE");
  set.Integer("warmup", &f->warmup, 0, kMaxIters, "round trips before the timed ones");
  set.Integer("iters", &f->iters, 1, kMaxIters, "timed round trips");
  set.Switch("no-baselines", &f->no_baselines, "time the exchange alone");
  set.Text("json", &f->json_file, "JSON file to write");
  set.Text("plot", &f->plot_file, "SVG file to write: round trip over tokens");
}

void DeclareBenchMoe(FlagSet& set, BenchMoeFlags* f) {
  set.Integers("tokens", &f->tokens, 0, kMaxTokens, "tokens of every rank");
  set.Integers("hidden", &f->hidden, 1, kMaxHidden, "hidden size");
  set.Integers("intermediate", &f->intermediate, 1, kMaxHidden, "inner size of an expert");
  set.Integers("experts", &f->experts, 1, kMaxExperts, "experts of the layer");
  set.Integers("top-k", &f->top_k, 1, kMaxTopK, "experts of a token");
  set.Choices("weights", &f->weight_dtypes, {{"bf16", DType::kBF16}, {"fp8", DType::kF8E4M3}, {"f32", DType::kF32}},
              "precision of the experts' weights");
  set.Choices("path", &f->paths, PathChoices(), "paths of the exchange");
  set.Integer("warmup", &f->warmup, 0, kMaxIters, "layers before the timed ones");
  set.Integer("iters", &f->iters, 1, kMaxIters, "timed layers");
  set.Text("json", &f->json_file, "JSON file to write");
}

void ApplyPreset(const FlagSet& set, BenchAllToAllFlags* f) {
  if (f->preset == "none") return;
  if (!set.given("tokens")) f->tokens = {f->preset == "deepep-normal" ? 4096 : 128};
  if (!set.given("hidden")) f->hidden = {7168};
  if (!set.given("experts")) f->experts = {256};
  if (!set.given("top-k")) f->top_k = {8};
  if (!set.given("dtype")) f->dtypes = {DType::kF8E4M3};
  if (!set.given("combine-dtype")) f->combine_dtypes = {DType::kBF16};
}

}  // namespace tokenferry

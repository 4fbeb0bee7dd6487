#include "launch/commands/cmd_bench_alltoall.h"

#include <algorithm>
#include <cstdio>

#include "comm/ops/row_codec_ops.h"
#include "launch/cli/flag_set.h"
#include "launch/cli/shared_flags.h"
#include "launch/commands/bench_limits.h"
#include "launch/commands/result_file.h"

namespace tokenferry {
namespace {

absl::Status ReadTraffics(BenchAllToAllFlags* f) {
  f->bench.traffics.clear();
  for (const std::string& text : f->traffics) {
    TF_ASSIGN_OR_RETURN(TrafficSpec spec, ParseTraffic(text));
    f->bench.traffics.push_back(std::move(spec));
  }
  return absl::OkStatus();
}

// Sizes as nccl-tests take them, in tokens: whole rows, at least one.
absl::Status TokensOfSizes(const FlagSet& set, BenchAllToAllFlags* f) {
  if (!set.given("minbytes")) {
    if (!set.given("maxbytes") && !set.given("stepfactor")) return absl::OkStatus();
    return absl::InvalidArgumentError("-e and -f go with -b: --minbytes is the smallest size");
  }
  if (set.given("tokens")) return absl::InvalidArgumentError("-b and --tokens both say how much is sent; give one");
  AllToAllBenchOptions* o = &f->bench;
  if (o->hidden.size() != 1 || o->dtypes.size() != 1) {
    return absl::InvalidArgumentError("-b needs one --hidden and one --dtype, so that bytes are tokens");
  }
  if (!set.given("maxbytes")) f->max_bytes = f->min_bytes;
  if (f->max_bytes < f->min_bytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("--maxbytes is ", f->max_bytes, ", less than --minbytes, ", f->min_bytes));
  }
  if (f->step_factor < 2) return absl::InvalidArgumentError("--stepfactor must be 2 or more");
  const int64_t row_bytes = RowBytes(o->dtypes[0], o->hidden[0]);
  o->tokens.clear();
  for (int64_t bytes = f->min_bytes; bytes <= f->max_bytes; bytes *= f->step_factor) {
    const int64_t tokens = std::max<int64_t>(1, bytes / row_bytes);
    if (tokens > kMaxBenchTokens) {
      return absl::InvalidArgumentError(absl::StrCat("--maxbytes: ", bytes, " bytes are ", tokens, " tokens of ",
                                                     row_bytes, " bytes; at most ", kMaxBenchTokens, " are measured"));
    }
    if (o->tokens.empty() || tokens != o->tokens.back()) o->tokens.push_back(tokens);
    if (bytes > f->max_bytes / f->step_factor) break;  // the next would be too large, or too large for an int64
  }
  return absl::OkStatus();
}

}  // namespace

void BenchAllToAllCommand::Declare(FlagSet& set, SharedFlags* shared) {
  BenchAllToAllFlags* f = &flags_;
  AllToAllBenchOptions* o = &f->bench;
  set.Choice<std::string>(
      "preset", &f->preset, {{"none", "none"}, {"deepep-normal", "deepep-normal"}, {"deepep-ll", "deepep-ll"}},
      "a published setting: hidden 7168, top-8 of 256, fp8 dispatch, bf16 combine, and 4096 or 128 tokens");
  set.Integers("tokens", &o->tokens, 0, kMaxBenchTokens, "tokens of every rank");
  set.Bytes('b', "minbytes", &f->min_bytes, "instead of --tokens: bytes of a rank's rows, the smallest");
  set.Bytes('e', "maxbytes", &f->max_bytes, "the largest; without it the smallest");
  set.Bytes('f', "stepfactor", &f->step_factor, "from one to the next [2]");
  set.Integers("hidden", &o->hidden, 1, kMaxBenchHidden, "elements of a row");
  set.Integers("experts", &o->experts, 1, kMaxBenchExperts, "experts; without it 256, or the trace's");
  set.Integers("top-k", &o->top_k, 1, kMaxBenchTopK, "experts of a token; without it 8, or the trace's");
  set.Choices("dtype", &o->dtypes,
              {{"bf16", DType::kBF16}, {"f32", DType::kF32}, {"fp8", DType::kF8E4M3}, {"int8", DType::kI8}},
              "of dispatched rows");
  set.Choices("combine-dtype", &o->combine_dtypes, {{"bf16", DType::kBF16}, {"f32", DType::kF32}},
              "of expert outputs on their way back");
  set.Choices("path", &o->paths, PathChoices(), "paths of the exchange");
  set.Choices("reduction", &o->reductions, {{"exact", Reduction::kExact}, {"node", Reduction::kNode}},
              "of paths two_level and auto: sums at home, or on each host first");
  set.Words("placement", &o->placements, "linear, random:SEED, or a JSON file");
  set.Words("traffic", &f->traffics, "uniform, zipf:S, hot:N, grouped, grouped:GROUPS:KEPT, silent-rank, trace:FILE");
  set.Integer("warmup", &o->warmup, 0, kMaxBenchIters, "round trips before the timed ones");
  set.Integer("iters", &o->iters, 1, kMaxBenchIters, "timed round trips");
  set.Switch("no-baselines", &o->baselines, RunBaselines::kNo, "time the exchange alone");
  set.Switch("per-rank", &f->per_rank, PerRankTimes::kShow, "a table of every rank's own times too");
  set.Text("json", &f->json_file, "JSON file to write");
  set.Text("csv", &f->csv_file, "CSV file to write");
  set.Text("plot", &f->plot_file, "SVG file to write: round trip over tokens");
  DeclareKernelFlags(set, shared);
}

// Gives what --preset names to the flags that were not given.
absl::Status BenchAllToAllCommand::Check(const FlagSet& set, SharedFlags* /*shared*/) {
  BenchAllToAllFlags* f = &flags_;
  AllToAllBenchOptions* o = &f->bench;
  TF_RETURN_IF_ERROR(ReadTraffics(f));
  if (f->preset == "none") return TokensOfSizes(set, f);
  o->preset = f->preset;
  if (!set.given("tokens")) o->tokens = {f->preset == "deepep-normal" ? 4096 : 128};
  if (!set.given("hidden")) o->hidden = {7168};
  if (!set.given("experts")) o->experts = {256};
  if (!set.given("top-k")) o->top_k = {8};
  if (!set.given("dtype")) o->dtypes = {DType::kF8E4M3};
  if (!set.given("combine-dtype")) o->combine_dtypes = {DType::kBF16};
  return TokensOfSizes(set, f);
}

absl::Status BenchAllToAllCommand::Run(RankContext& context) const {
  const BenchAllToAllFlags& flags = flags_;
  TF_ASSIGN_OR_RETURN(const auto json, OpenResultFile(context, "--json", flags.json_file));
  TF_ASSIGN_OR_RETURN(const auto csv, OpenResultFile(context, "--csv", flags.csv_file));
  TF_ASSIGN_OR_RETURN(const auto plot, OpenResultFile(context, "--plot", flags.plot_file));
  const BenchContext bench{context.transport, context.device, context.topology, context.isa, context.num_threads};
  TF_ASSIGN_OR_RETURN(const AllToAllReport report, RunAllToAllBench(bench, flags.bench));
  if (context.rank() != RankId(0)) return absl::OkStatus();
  std::fputs(ReportTable(report, flags.per_rank).c_str(), stdout);
  if (json != nullptr) TF_RETURN_IF_ERROR(json->Commit(ReportJson(report)));
  if (csv != nullptr) TF_RETURN_IF_ERROR(csv->Commit(ReportCsv(report)));
  return plot == nullptr ? absl::OkStatus() : plot->Commit(ReportSvg(report));
}

}  // namespace tokenferry

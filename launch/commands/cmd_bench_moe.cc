#include "launch/commands/cmd_bench_moe.h"

#include <cstdio>

#include "launch/cli/flag_set.h"
#include "launch/cli/shared_flags.h"
#include "launch/commands/bench_limits.h"
#include "launch/commands/result_file.h"

namespace tokenferry {

void BenchMoeCommand::Declare(FlagSet& set, SharedFlags* shared) {
  MoeBenchOptions* o = &flags_.bench;
  set.Integers("tokens", &o->tokens, 0, kMaxBenchTokens, "tokens of every rank");
  set.Integers("hidden", &o->hidden, 1, kMaxBenchHidden, "hidden size");
  set.Integers("intermediate", &o->intermediate, 1, kMaxBenchHidden, "inner size of an expert");
  set.Integers("experts", &o->experts, 1, kMaxBenchExperts, "experts of the layer");
  set.Integers("top-k", &o->top_k, 1, kMaxBenchTopK, "experts of a token");
  set.Choice("router", &o->router,
             {{"top_k", BenchRouterKind::kTopK},
              {"noisy_top_k", BenchRouterKind::kNoisyTopK},
              {"expert_choice", BenchRouterKind::kExpertChoice},
              {"hash", BenchRouterKind::kHash}},
             "who chooses the experts; expert_choice: a token has top-k of them on average");
  set.Choices("weights", &o->weight_dtypes, {{"bf16", DType::kBF16}, {"fp8", DType::kF8E4M3}, {"f32", DType::kF32}},
              "precision of the experts' weights");
  DeclareComputeFlag(set, &o->compute);
  set.Choices("path", &o->paths, PathChoices(), "paths of the exchange");
  set.Integer("warmup", &o->warmup, 0, kMaxBenchIters, "layers before the timed ones");
  set.Integer("iters", &o->iters, 1, kMaxBenchIters, "timed layers");
  set.Text("json", &flags_.json_file, "JSON file to write");
  DeclareKernelFlags(set, shared);
}

absl::Status BenchMoeCommand::Check(const FlagSet& /*set*/, SharedFlags* /*shared*/) { return absl::OkStatus(); }

absl::Status BenchMoeCommand::Run(RankContext& context) const {
  TF_ASSIGN_OR_RETURN(const auto json, OpenResultFile(context, "--json", flags_.json_file));
  const BenchContext bench{context.transport, context.device, context.topology, context.isa, context.num_threads};
  TF_ASSIGN_OR_RETURN(const MoeReport report, RunMoeBench(bench, flags_.bench));
  if (context.rank() != RankId(0)) return absl::OkStatus();
  std::fputs(MoeTable(report).c_str(), stdout);
  return json == nullptr ? absl::OkStatus() : json->Commit(MoeJson(report));
}

}  // namespace tokenferry

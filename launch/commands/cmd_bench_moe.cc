// tokenferry bench moe: a whole MoE layer with random weights. bench/README.md defines every number.
#include <cstdio>

#include "bench/moe/moe_bench.h"
#include "launch/commands/bench_command.h"
#include "launch/commands/commands.h"

namespace tokenferry {

absl::Status RunBenchMoe(RankContext& context, const BenchMoeFlags& flags) {
  TF_ASSIGN_OR_RETURN(const auto json, OpenResultFile(context, "--json", flags.json_file));
  const BenchContext bench{context.transport, context.device, context.topology, context.isa, context.num_threads};
  const MoeBenchOptions options{.tokens = flags.tokens,
                                .hidden = flags.hidden,
                                .intermediate = flags.intermediate,
                                .experts = flags.experts,
                                .top_k = flags.top_k,
                                .weight_dtypes = flags.weight_dtypes,
                                .paths = flags.paths,
                                .compute = context.flags.compute,
                                .warmup = flags.warmup,
                                .iters = flags.iters};
  TF_ASSIGN_OR_RETURN(const MoeReport report, RunMoeBench(bench, options));
  if (context.rank() != RankId(0)) return absl::OkStatus();
  std::fputs(MoeTable(report).c_str(), stdout);
  return json == nullptr ? absl::OkStatus() : json->Commit(MoeJson(report));
}

}  // namespace tokenferry

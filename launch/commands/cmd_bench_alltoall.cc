// tokenferry bench alltoall: the exchange alone, beside MPI's. bench/README.md defines every number.
#include <cstdio>

#include "bench/alltoall/alltoall_report.h"
#include "comm/transport/collectives.h"
#include "launch/commands/bench_command.h"
#include "launch/commands/commands.h"

namespace tokenferry {
namespace {

absl::StatusOr<AllToAllBenchOptions> MakeOptions(const BenchAllToAllFlags& flags) {
  AllToAllBenchOptions options;
  options.tokens = flags.tokens;
  options.hidden = flags.hidden;
  options.experts = flags.experts;
  options.top_k = flags.top_k;
  options.dtypes = flags.dtypes;
  options.combine_dtypes = flags.combine_dtypes;
  options.paths = flags.paths;
  options.reductions = flags.reductions;
  options.placements = flags.placements;
  options.warmup = flags.warmup;
  options.iters = flags.iters;
  options.baselines = flags.no_baselines ? RunBaselines::kNo : RunBaselines::kYes;
  options.traffics.clear();
  for (const std::string& text : flags.traffics) {
    TF_ASSIGN_OR_RETURN(TrafficSpec spec, ParseTraffic(text));
    options.traffics.push_back(std::move(spec));
  }
  return options;
}

}  // namespace

absl::StatusOr<std::unique_ptr<TextFileWriter>> OpenResultFile(RankContext& context, absl::string_view flag,
                                                               const std::string& path) {
  std::unique_ptr<TextFileWriter> writer;
  absl::Status status = absl::OkStatus();
  if (!path.empty() && context.rank() == RankId(0)) {
    auto created = TextFileWriter::Create(flag, path);
    status = created.status();
    if (created.ok()) writer = *std::move(created);
  }
  TF_RETURN_IF_ERROR(AgreeOnStatus(context.transport, {.phase = "result files"}, status));
  return writer;
}

absl::Status RunBenchAllToAll(RankContext& context, const BenchAllToAllFlags& flags) {
  auto options = MakeOptions(flags);
  TF_RETURN_IF_ERROR(AgreeOnStatus(context.transport, {.phase = "flags"}, options.status()));
  TF_ASSIGN_OR_RETURN(const auto json, OpenResultFile(context, "--json", flags.json_file));
  TF_ASSIGN_OR_RETURN(const auto plot, OpenResultFile(context, "--plot", flags.plot_file));
  const BenchContext bench{context.transport, context.device, context.topology, context.isa, context.num_threads};
  TF_ASSIGN_OR_RETURN(const AllToAllReport report, RunAllToAllBench(bench, *options));
  if (context.rank() != RankId(0)) return absl::OkStatus();
  std::fputs(ReportTable(report).c_str(), stdout);
  if (json != nullptr) TF_RETURN_IF_ERROR(json->Commit(ReportJson(report)));
  return plot == nullptr ? absl::OkStatus() : plot->Commit(ReportSvg(report));
}

}  // namespace tokenferry

// tokenferry bench alltoall: the exchange alone, beside MPI's. bench/README.md defines every number.
#include <cstdio>
#include <fstream>

#include "bench/alltoall_report.h"
#include "comm/collectives.h"
#include "launch/bench_command.h"
#include "launch/commands.h"

namespace tokenferry {
namespace {

absl::StatusOr<AllToAllBenchOptions> MakeOptions(const BenchAllToAllFlags& flags) {
  AllToAllBenchOptions options;
  options.tokens = flags.tokens;
  options.hidden = flags.hidden;
  options.experts = flags.experts;
  options.top_k = flags.top_k;
  options.dtypes = flags.dtypes;
  options.paths = flags.paths;
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

absl::Status WriteFile(const std::string& flag, const std::string& path, const std::string& text) {
  if (path.empty()) return absl::OkStatus();
  std::ofstream file(path);
  file << text;
  file.close();
  return file ? absl::OkStatus() : absl::UnavailableError(absl::StrCat("--", flag, " ", path, ": cannot be written"));
}

absl::Status RunBenchAllToAll(RankContext& context, const BenchAllToAllFlags& flags) {
  auto options = MakeOptions(flags);
  TF_RETURN_IF_ERROR(AgreeOnStatus(context.transport, {.phase = "flags"}, options.status()));
  const BenchContext bench{context.transport, context.device, context.topology, context.isa, context.num_threads};
  TF_ASSIGN_OR_RETURN(const AllToAllReport report, RunAllToAllBench(bench, *options));
  if (context.rank() != RankId(0)) return absl::OkStatus();
  std::fputs(ReportTable(report).c_str(), stdout);
  TF_RETURN_IF_ERROR(WriteFile("json", flags.json_file, ReportJson(report)));
  return WriteFile("plot", flags.plot_file, ReportSvg(report));
}

}  // namespace tokenferry

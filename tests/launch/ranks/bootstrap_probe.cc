// bootstrap_probe BODY TRANSPORT RANKS TIMEOUT_S [INSTRUCTION_SET]: a program whose ranks end in one of the ways that a
// command can; bootstrap_test.py starts it alone and under mpirun and looks at what it says and returns.
#include <signal.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <string>

#include "absl/strings/str_cat.h"
#include "comm/transport/collectives.h"
#include "launch/ranks/bootstrap.h"

namespace tokenferry {
namespace {

constexpr CallSite kSite = {.phase = "probe", .layer = 3, .step = 17};

absl::Status ReportAll(RankContext& context) {
  const std::string mine = absl::StrCat("rank ", context.rank().value, " of ", context.num_ranks(), " ",
                                        IsaName(context.isa), " threads ", context.num_threads, "\n");
  TF_ASSIGN_OR_RETURN(const auto all, Gather(context.transport, kSite, RankId(0), mine));
  for (const std::string& line : all) std::fputs(line.c_str(), stdout);
  return absl::OkStatus();
}

bool IsLast(const RankContext& context) { return context.rank().value == context.num_ranks() - 1; }

absl::Status Body(RankContext& context, const std::string& body) {
  const absl::Status broken = absl::DataLossError("file x.safetensors, tensor w:\nscale 3 is nan");
  if (body == "ok") return ReportAll(context);
  if (body == "agreed") {
    return Annotate(AgreeOnStatus(context.transport, kSite, IsLast(context) ? broken : absl::OkStatus()), "load");
  }
  if (body == "alone") {  // the others wait for it in a transfer
    return IsLast(context) ? broken : Barrier(context.transport, kSite);
  }
  if (body == "busy") {  // the others compute and look at nothing
    while (!IsLast(context)) pause();
    return broken;
  }
  if (body == "killed") {
    if (IsLast(context)) kill(getpid(), SIGKILL);
    return Barrier(context.transport, kSite);
  }
  if (body == "stopped") {
    if (IsLast(context)) kill(getpid(), SIGSTOP);
    return Barrier(context.transport, kSite);
  }
  return absl::InvalidArgumentError(absl::StrCat("no body '", body, "'"));
}

int Main(int argc, char** argv) {
  if (argc < 5) return 3;
  const std::string body = argv[1], transport = argv[2];
  SharedFlags flags;
  flags.transport = transport == "mpi"     ? TransportChoice::kMpi
                    : transport == "local" ? TransportChoice::kLocal
                                           : TransportChoice::kAuto;
  flags.num_ranks = std::stoi(argv[3]);
  flags.instruction_set = argc > 5 ? argv[5] : "";
  flags.comm_timeout = absl::Seconds(std::stoi(argv[4]));
  flags.log_level = LogLevel::kWarning;
  const auto plan = PlanRanks(flags, GetLauncherInfo());
  if (!plan.ok()) {
    PrintError(plan.status().message());
    return 2;
  }
  return RunRanks(flags, *plan, [&body](RankContext& context) { return Body(context, body); });
}

}  // namespace
}  // namespace tokenferry

int main(int argc, char** argv) { return tokenferry::Main(argc, argv); }

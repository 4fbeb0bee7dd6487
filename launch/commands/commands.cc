#include "launch/commands/commands.h"

#include "launch/commands/cmd_bench_alltoall.h"
#include "launch/commands/cmd_bench_engine.h"
#include "launch/commands/cmd_bench_moe.h"
#include "launch/commands/cmd_bench_serve.h"
#include "launch/commands/cmd_eval.h"
#include "launch/commands/cmd_generate.h"
#include "launch/commands/cmd_inspect.h"
#include "launch/commands/cmd_launch.h"
#include "launch/commands/cmd_serve.h"

namespace tokenferry {
namespace {

constexpr SubcommandInfo kSubcommands[] = {
    {"generate", "continue prompts, streaming the text", CreateSubcommand<GenerateCommand>},
    {"eval", "logits, routing and perplexity of given tokens or text", CreateSubcommand<EvalCommand>},
    {"inspect", "architecture, parameters, bytes by dtype and placement of a checkpoint",
     CreateSubcommand<InspectCommand>},
    {"bench engine", "time loading, prefill and decode; memory per rank", CreateSubcommand<BenchEngineCommand>},
    {"bench alltoall", "time dispatch and combine with MoE-shaped traffic, beside MPI",
     CreateSubcommand<BenchAllToAllCommand>},
    {"bench moe", "time a whole MoE layer with random weights", CreateSubcommand<BenchMoeCommand>},
    {"bench serve", "time a server's answers under load, this program's or any with OpenAI's API",
     CreateSubcommand<BenchServeCommand>},
    {"serve", "an OpenAI-compatible API", CreateSubcommand<ServeCommand>},
    {"launch", "serve with ranks that are started again when they fail", CreateSubcommand<LaunchCommand>},
    {"plan", "which model fits on which machines, and how fast", nullptr},
    {"check", "a cluster, before the first token", nullptr},
};

}  // namespace

absl::Span<const SubcommandInfo> Subcommands() { return kSubcommands; }

}  // namespace tokenferry

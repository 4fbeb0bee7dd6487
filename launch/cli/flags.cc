#include "launch/cli/flags.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <limits>
#include <memory>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "launch/cli/config_file.h"
#include "launch/cli/flag_set.h"
#include "launch/cli/nearest.h"
#include "runtime/engine/sampler.h"

namespace tokenferry {
namespace {

constexpr int64_t kMaxTokens = int64_t{1} << 30;
constexpr RealRange::Low kExcluded = RealRange::Low::kExcluded;

struct CommandInfo {
  Command command;
  const char* name;
  const char* summary;
};

constexpr CommandInfo kCommands[] = {
    {Command::kGenerate, "generate", "continue prompts, streaming the text"},
    {Command::kEval, "eval", "logits, routing and perplexity of given tokens or text"},
    {Command::kInspect, "inspect", "architecture, parameters, bytes by dtype and placement of a checkpoint"},
    {Command::kBenchEngine, "bench engine", "time loading, prefill and decode; memory per rank"},
    {Command::kBenchAllToAll, "bench alltoall", "time dispatch and combine with MoE-shaped traffic, beside MPI"},
    {Command::kBenchMoe, "bench moe", "time a whole MoE layer with random weights"},
};

// Flags without a value that stand for a choice of OverflowPolicy.
struct OverflowSwitches {
  bool renormalise = false;
  bool padded = false;
};

void DeclareOverflow(FlagSet& set, OverflowPolicy* p, OverflowSwitches* switches) {
  set.Choice("overflow", &p->kind,
             {{"dropless", Overflow::kDropless},
              {"capacity", Overflow::kCapacity},
              {"rank_budget", Overflow::kRankBudget},
              {"reroute", Overflow::kReroute},
              {"trap", Overflow::kTrap}},
             "selections beyond an expert's capacity: none are; dropped; dropped beyond what a rank may receive; sent "
             "to a replica or the next-best expert with room, else dropped; an error");
  set.Real(
      "capacity-factor", &p->capacity_factor, {0, 1024, kExcluded},
      "F: an expert takes ceil(F * top-k * tokens of all ranks / experts) selections, a rank (rank_budget) ceil(F * "
      "top-k * tokens / ranks)");
  set.Choice("drop", &p->drop_by, {{"position", DropBy::kPosition}, {"probability", DropBy::kProbability}},
             "who has to go: the last ones, or those with the smallest weights");
  set.Choice("drop-order", &p->order, {{"slot", PositionOrder::kSlotMajor}, {"token", PositionOrder::kTokenMajor}},
             "order of positions: all first choices, then all second ones (GShard); or token by token");
  set.Switch("renormalise", &switches->renormalise, "scale what is left of a token's weights to the sum they had");
  set.Switch("padded", &switches->padded,
             "every expert computes as many rows as its capacity, zeros beyond: static shapes");
}

// `own` are the subcommand's flags: it may give a name a meaning of its own.
void DeclareShared(FlagSet& set, const FlagSet& own, SharedFlags* f, OverflowSwitches* switches) {
  const auto is_free = [&own](const char* name) {
    return std::find(own.names().begin(), own.names().end(), name) == own.names().end();
  };
  set.Text("model", &f->model, "directory of the checkpoint (config.json, *.safetensors, tokenizer.json)");
  set.Choice("device", &f->device,
             {{"auto", DeviceChoice::kAuto}, {"cpu", DeviceChoice::kCpu}, {"cuda", DeviceChoice::kCuda}},
             "where kernels run");
  set.Choice("compute", &f->compute, {{"bf16", Compute::kBF16}, {"f32", Compute::kF32}},
             "precision of the inputs of matrix products");
  set.Integer("threads", &f->num_threads, 0, 4096, "kernel threads per rank; 0: its share of the cores");
  set.Choice("transport", &f->transport,
             {{"auto", TransportChoice::kAuto}, {"local", TransportChoice::kLocal}, {"mpi", TransportChoice::kMpi}},
             "what moves bytes between ranks; auto: mpi under mpirun or srun, else local");
  set.Integer("ranks", &f->num_ranks, 0, 4096,
              "ranks; with the local transport, threads of this process; 0: as started");
  if (is_free("path")) {
    set.Choice(
        "path", &f->path, PathChoices(),
        "path of the exchange; auto: peer when all ranks share a host's memory, else what measured links predict");
  }
  if (is_free("reduction")) {
    set.Choice("reduction", &f->reduction, {{"exact", Reduction::kExact}, {"node", Reduction::kNode}},
               "of --path two_level: outputs travel one by one, with the bits of every path, or are summed on each "
               "host first");
  }
  if (is_free("placement")) {
    set.Text("placement", &f->placement, "linear, or a JSON file: which rank holds which experts [linear]");
  }
  DeclareOverflow(set, &f->overflow, switches);
  set.Choice("dispatch-dtype", &f->dispatch_dtype,
             {{"auto", std::nullopt},
              {"bf16", DType::kBF16},
              {"f32", DType::kF32},
              {"fp8", DType::kF8E4M3},
              {"int8", DType::kI8}},
             "rows sent to experts; fp8 (E4M3) and int8 with a scale per 128 values; auto: as --compute");
  if (is_free("combine-dtype")) {
    set.Choice("combine-dtype", &f->combine_dtype, {{"f32", DType::kF32}, {"bf16", DType::kBF16}},
               "expert outputs sent back");
  }
  set.Choice("overlap", &f->overlap,
             {{"off", Overlap::kOff}, {"shared", Overlap::kShared}, {"two_batch", Overlap::kTwoBatch}},
             "what is computed while rows travel: the shared expert; or that and the other half of a step's tokens");
  set.Integer("exchange-budget", &f->exchange_budget, 0, std::numeric_limits<int64_t>::max(),
              "most bytes of an exchange's buffers per rank, kept by several rounds; 0: no bound");
  set.Duration("comm-timeout", &f->comm_timeout, "longest wait for another rank");
  set.Integer("prefill-chunk", &f->prefill_chunk, 0, kMaxTokens, "prompt tokens of a sequence per step; 0: all");
  set.Integer("kv-cache-tokens", &f->kv_cache_tokens, 0, kMaxTokens, "size of a rank's KV cache; 0: as needed");
  set.Text("instruction-set", &f->instruction_set, "CPU kernels to use; without it, the best that all ranks have");
  set.Text("config", &f->config_file, "YAML file with any of these flags; the command line wins");
  set.Switch("explain", &f->explain, "print the placement and the exchange plan of the first step");
  set.Choice("log-level", &f->log_level,
             {{"debug", LogLevel::kDebug},
              {"info", LogLevel::kInfo},
              {"warning", LogLevel::kWarning},
              {"error", LogLevel::kError},
              {"off", LogLevel::kOff}},
             "messages on stderr");
}

void DeclareGenerate(FlagSet& set, GenerateFlags* f) {
  set.Texts("prompt", &f->prompts, "text to continue; repeat for a batch");
  set.Text("prompt-file", &f->prompt_file, "file whose text is one more prompt");
  set.Integer("max-tokens", &f->max_tokens, 1, kMaxTokens, "new tokens per prompt");
  set.Switch("ignore-eos", &f->ignore_eos, "go on after the end-of-text token");
  set.Real("temperature", &f->temperature, {kMinTemperature, kMaxTemperature, RealRange::Low::kOrZero},
           "0: always the likeliest token");
  set.Real("top-p", &f->top_p, {kMinTopP, 1}, "sample from the likeliest tokens of this total probability");
  set.Integer("top-k", &f->top_k, 0, kMaxTokens, "sample from the k likeliest tokens; 0: all");
  set.Real("min-p", &f->min_p, {0, 1}, "drop tokens less likely than this share of the likeliest");
  set.Real("repetition-penalty", &f->repetition_penalty, {kMinRepetitionPenalty, kMaxRepetitionPenalty},
           "divides the logits of seen tokens");
  set.Real("presence-penalty", &f->presence_penalty, {-kMaxPresencePenalty, kMaxPresencePenalty},
           "subtracted from the logits of generated tokens");
  set.Seed("seed", &f->seed, "of sampling");
  set.Texts("stop", &f->stop, "text that ends a sequence; repeatable");
  set.Switch("json", &f->json, "print one JSON document instead of streaming");
  set.Switch("stats", &f->stats, "close with a table of speed, traffic, load and memory");
  set.Text("record-routing", &f->record_routing,
           "file to write: the experts that every token chose, for bench alltoall");
}

void DeclareEval(FlagSet& set, EvalFlags* f) {
  set.Text("ids", &f->ids_file, "JSON file {\"prompts\": [{\"input_ids\": [..]}, ..]}");
  set.Text("text", &f->text_file, "text file, tokenized as one prompt");
  set.Text("out", &f->out_file, "safetensors file to write: logits and routing");
  set.Text("json", &f->json_file, "JSON file to write: perplexities");
}

void DeclareInspect(FlagSet& set, InspectFlags* f) { set.Switch("json", &f->json, "print JSON"); }

void DeclareBench(FlagSet& set, BenchFlags* f) {
  set.Integer("prompt-tokens", &f->prompt_tokens, 1, kMaxTokens, "prompt tokens per sequence");
  set.Integer("decode-tokens", &f->decode_tokens, 1, kMaxTokens, "generated tokens per sequence");
  set.Integer("sequences", &f->num_sequences, 1, 1 << 20, "sequences at a time");
  set.Integer("repeats", &f->num_repeats, 1, 1 << 20, "measured runs, after one to warm up");
  set.Text("json", &f->json_file, "JSON file to write");
}

// The parser of one subcommand, filling its own CommandLine.
struct Parser {
  explicit Parser(const CommandInfo& info)
      : name(info.name), app(info.summary, absl::StrCat("tokenferry ", info.name)), own(&app), shared(&app) {
    line.command = info.command;
    app.allow_extras();
    app.get_formatter()->column_width(34);
    switch (info.command) {
      case Command::kGenerate:
        DeclareGenerate(own, &line.generate);
        break;
      case Command::kEval:
        DeclareEval(own, &line.eval);
        break;
      case Command::kInspect:
        DeclareInspect(own, &line.inspect);
        break;
      case Command::kBenchEngine:
        DeclareBench(own, &line.bench);
        break;
      case Command::kBenchAllToAll:
        DeclareBenchAllToAll(own, &line.bench_alltoall);
        break;
      case Command::kBenchMoe:
        DeclareBenchMoe(own, &line.bench_moe);
        break;
    }
    DeclareShared(shared, own, &line.shared, &switches);
  }

  std::vector<std::string> names() const {
    std::vector<std::string> all = own.names();
    all.insert(all.end(), shared.names().begin(), shared.names().end());
    return all;
  }
  bool has(const std::string& flag) const {
    const std::vector<std::string> all = names();
    return std::find(all.begin(), all.end(), flag) != all.end();
  }
  FlagSet& set_of(const std::string& flag) {
    const auto& names = own.names();
    return std::find(names.begin(), names.end(), flag) != names.end() ? own : shared;
  }

  std::string name;
  CommandLine line;
  OverflowSwitches switches;
  CLI::App app;
  FlagSet own, shared;
};

absl::Status RefuseExtra(const Parser& parser, const std::string& extra) {
  if (!absl::StartsWith(extra, "-")) {
    return absl::InvalidArgumentError(absl::StrCat("unexpected argument '", extra, "' of ", parser.name,
                                                   ": values follow a flag, and texts are quoted"));
  }
  const size_t begin = std::min(extra.find_first_not_of('-'), extra.size());
  const std::string bare = extra.substr(begin, extra.find('=') - begin);
  return absl::InvalidArgumentError(absl::StrCat("unknown flag '", extra.substr(0, extra.find('=')), "' of ",
                                                 parser.name, "; the nearest is '--", Nearest(bare, parser.names()),
                                                 "'"));
}

absl::Status ParseArgs(Parser& parser, absl::Span<const char* const> args) {
  std::vector<std::string> reversed(args.rbegin(), args.rend());  // CLI11 takes them from the back
  try {
    parser.app.parse(reversed);
  } catch (const CLI::CallForHelp&) {
    parser.line.text = parser.app.help();
    return absl::OkStatus();
  } catch (const CLI::Error& e) {
    return absl::InvalidArgumentError(e.what());
  }
  const std::vector<std::string> extras = parser.app.remaining();
  return extras.empty() ? absl::OkStatus() : RefuseExtra(parser, extras.front());
}

absl::Status SetFromFile(Parser& parser, const ConfigEntry& entry) {
  if (!parser.has(entry.key) || entry.key == "config") {
    return absl::InvalidArgumentError(absl::StrCat(entry.place, ": unknown key '", entry.key, "' for ", parser.name,
                                                   "; the nearest is '", Nearest(entry.key, parser.names()), "'"));
  }
  return Annotate(parser.set_of(entry.key).SetIfAbsent(entry.key, entry.values), entry.place);
}

absl::Status ApplyConfigFile(Parser& parser) {
  std::vector<std::string> sections;
  for (const CommandInfo& info : kCommands) sections.push_back(info.name);
  TF_ASSIGN_OR_RETURN(const std::vector<ConfigEntry> entries, ReadConfigFile(parser.line.shared.config_file, sections));
  std::vector<std::unique_ptr<Parser>> others;  // to check the sections of the other subcommands
  for (const CommandInfo& info : kCommands) others.push_back(std::make_unique<Parser>(info));
  // Sections first: what stands under a subcommand's name is closer to it than what stands at the top.
  for (const ConfigEntry& entry : entries) {
    if (entry.section.empty()) continue;
    for (auto& other : others) {
      if (other->name == entry.section) TF_RETURN_IF_ERROR(SetFromFile(*other, entry));
    }
    if (parser.name == entry.section) TF_RETURN_IF_ERROR(SetFromFile(parser, entry));
  }
  for (const ConfigEntry& entry : entries) {
    if (entry.section.empty()) TF_RETURN_IF_ERROR(SetFromFile(parser, entry));
  }
  return absl::OkStatus();
}

// A flag that the policy has no use for is refused: it would promise something.
absl::Status CheckOverflow(const Parser& parser) {
  const Overflow kind = parser.line.shared.overflow.kind;
  const bool has_room = kind == Overflow::kCapacity || kind == Overflow::kReroute;
  const bool drops = has_room || kind == Overflow::kRankBudget;
  const auto refuse = [&](const char* flag, bool allowed, const char* policies) -> absl::Status {
    if (allowed || !parser.shared.given(flag)) return absl::OkStatus();
    return absl::InvalidArgumentError(absl::StrCat("--", flag, " is of --overflow ", policies, ", not chosen"));
  };
  TF_RETURN_IF_ERROR(refuse("capacity-factor", kind != Overflow::kDropless, "capacity, rank_budget, reroute and trap"));
  for (const char* flag : {"drop", "drop-order", "renormalise"}) {
    TF_RETURN_IF_ERROR(refuse(flag, drops, "capacity, rank_budget and reroute"));
  }
  return refuse("padded", has_room, "capacity and reroute");
}

absl::Status CheckOverlap(const SharedFlags& f) {
  if (f.overlap == Overlap::kTwoBatch && f.overflow.kind != Overflow::kDropless) {
    return absl::InvalidArgumentError(
        "--overlap two_batch needs --overflow dropless: other policies look at all tokens of a step at once; the "
        "nearest is --overlap shared");
  }
  return absl::OkStatus();
}

absl::Status CheckTogether(const Parser& parser) {
  const CommandLine& line = parser.line;
  const bool needs_model = line.command != Command::kBenchAllToAll && line.command != Command::kBenchMoe;
  if (needs_model && line.shared.model.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(parser.name, " needs --model DIR, a directory with a checkpoint"));
  }
  TF_RETURN_IF_ERROR(CheckOverflow(parser));
  TF_RETURN_IF_ERROR(CheckOverlap(line.shared));
  if (line.command == Command::kGenerate && line.generate.prompts.empty() && line.generate.prompt_file.empty()) {
    return absl::InvalidArgumentError("generate needs --prompt TEXT or --prompt-file F");
  }
  if (line.command == Command::kEval && line.eval.ids_file.empty() == line.eval.text_file.empty()) {
    return absl::InvalidArgumentError("eval needs one of --ids F.json and --text F");
  }
  if (!line.shared.instruction_set.empty()) {
    TF_RETURN_IF_ERROR(Annotate(IsaFromName(line.shared.instruction_set).status(), "--instruction-set"));
  }
  return absl::OkStatus();
}

std::string ProgramHelp() {
  std::string text = "tokenferry " TOKENFERRY_VERSION
                     ": expert-parallel runtime for Mixture-of-Experts language models\n"
                     "\nUsage: [mpirun -n RANKS] tokenferry SUBCOMMAND [--flag value ..]\n\nSubcommands:\n";
  for (const CommandInfo& info : kCommands) absl::StrAppend(&text, "  ", info.name, "\n      ", info.summary, "\n");
  return absl::StrCat(text,
                      "\n`tokenferry SUBCOMMAND --help` lists its flags; `tokenferry --version` says what this is.\n");
}

// The subcommand that `args` begin with, and the number of words it takes.
absl::StatusOr<const CommandInfo*> FindCommand(absl::Span<const char* const> args, size_t* num_words) {
  std::vector<std::string> names;
  for (const CommandInfo& info : kCommands) {
    const std::string name = info.name;
    names.push_back(name);
    *num_words = 1 + std::count(name.begin(), name.end(), ' ');
    if (args.size() < *num_words) continue;
    std::string given = args[0];
    if (*num_words == 2) absl::StrAppend(&given, " ", args[1]);
    if (given == name) return &info;
  }
  std::string word = args[0];
  if (absl::StartsWith(word, "-")) {
    return absl::InvalidArgumentError(absl::StrCat("'", word,
                                                   "' stands before the subcommand; write `tokenferry generate ", word,
                                                   " ..`, and see `tokenferry --help`"));
  }
  if (word == "bench" && args.size() > 1) absl::StrAppend(&word, " ", args[1]);
  // What was meant by one word may be the first of two.
  std::vector<std::string> candidates = names;
  if (!absl::StrContains(word, ' ')) {
    for (std::string& name : candidates) name = name.substr(0, name.find(' '));
  }
  const std::string nearest = Nearest(word, candidates);
  const size_t idx = std::find(candidates.begin(), candidates.end(), nearest) - candidates.begin();
  return absl::InvalidArgumentError(absl::StrCat("unknown subcommand '", word, "'; the nearest is '", names[idx], "'"));
}

}  // namespace

absl::StatusOr<CommandLine> ParseCommandLine(absl::Span<const char* const> args) {
  CommandLine line;
  if (args.empty()) return absl::InvalidArgumentError("no subcommand given; see `tokenferry --help`");
  const std::string first = args[0];
  if (first == "--help" || first == "-h" || first == "help") {
    line.text = ProgramHelp();
    return line;
  }
  if (first == "--version") {
    line.text = "tokenferry " TOKENFERRY_VERSION "\n";
    return line;
  }
  size_t num_words = 0;
  TF_ASSIGN_OR_RETURN(const CommandInfo* info, FindCommand(args, &num_words));
  Parser parser(*info);
  TF_RETURN_IF_ERROR(ParseArgs(parser, args.subspan(num_words)));
  if (!parser.line.text.empty()) return parser.line;
  if (!parser.line.shared.config_file.empty()) TF_RETURN_IF_ERROR(ApplyConfigFile(parser));
  TF_RETURN_IF_ERROR(CheckTogether(parser));
  OverflowPolicy& overflow = parser.line.shared.overflow;
  overflow.renormalise = parser.switches.renormalise ? Renormalise::kYes : Renormalise::kNo;
  overflow.padding = parser.switches.padded ? Padding::kCapacity : Padding::kNone;
  ApplyPreset(parser.own, &parser.line.bench_alltoall);
  return parser.line;
}

}  // namespace tokenferry

#include "launch/commands/cmd_bench_serve.h"

#include <cstdio>
#include <cstdlib>

#include "absl/algorithm/container.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "launch/cli/flag_set.h"
#include "launch/cli/shared_flags.h"
#include "launch/cli/text_file.h"
#include "launch/ranks/bootstrap.h"
#include "runtime/serve/front/access.h"
#include "runtime/text/chat/local_time.h"

namespace tokenferry {
namespace {

constexpr double kMostPerSecond = 1e6;

absl::StatusOr<std::string> ApiKey(const std::string& file) {
  if (file.empty()) {
    const char* const key = std::getenv("OPENAI_API_KEY");
    return key == nullptr ? "" : key;
  }
  TF_ASSIGN_OR_RETURN(const std::vector<std::string> keys, ReadApiKeys(file));
  return keys.front();
}

std::string DateText() {
  const absl::CivilSecond now = LocalNow();
  return absl::StrFormat("%04d%02d%02d-%02d%02d%02d", now.year(), now.month(), now.day(), now.hour(), now.minute(),
                         now.second());
}

using PromptSources = std::vector<std::pair<std::string, PromptSource>>;
const PromptSources& Sources() {
  static const PromptSources sources = {{"random", PromptSource::kRandom},
                                        {"sharegpt", PromptSource::kShareGpt},
                                        {"shared-prefix", PromptSource::kSharedPrefix}};
  return sources;
}

// The flags that not all kinds of prompts use, and those that do.
struct PromptFlag {
  const char* name;
  std::vector<PromptSource> users;
};

// InvalidArgument for a flag that would have no effect.
absl::Status CheckPromptFlags(const FlagSet& set, PromptSource chosen) {
  const PromptFlag flags[] = {{"dataset", {PromptSource::kShareGpt}},
                              {"input-len", {PromptSource::kRandom, PromptSource::kSharedPrefix}},
                              {"range-ratio", {PromptSource::kRandom}},
                              {"prefix-len", {PromptSource::kSharedPrefix}},
                              {"num-prefixes", {PromptSource::kSharedPrefix}}};
  for (const PromptFlag& flag : flags) {
    if (!set.given(flag.name) || absl::c_linear_search(flag.users, chosen)) continue;
    std::string chosen_name;
    std::vector<std::string> users;
    for (const auto& [name, source] : Sources()) {
      if (source == chosen) chosen_name = name;
      if (absl::c_linear_search(flag.users, source)) users.push_back(absl::StrCat("--prompts ", name));
    }
    return absl::InvalidArgumentError(absl::StrCat("--prompts ", chosen_name, " does not use --", flag.name,
                                                   "; it is a flag of ", absl::StrJoin(users, " and ")));
  }
  if (chosen == PromptSource::kShareGpt && !set.given("dataset")) {
    return absl::InvalidArgumentError("--prompts sharegpt needs --dataset F, a file in ShareGPT's format");
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<TextFileWriter>> Writer(absl::string_view flag, const std::string& path) {
  if (path.empty()) return nullptr;
  return TextFileWriter::Create(flag, path);
}

// The first prompts, one after the other, to warm up; and a server that cannot answer them is not measured.
absl::Status WarmUp(const ResolvedTarget& target, ServeLoadOptions load, const std::vector<BenchPrompt>& prompts,
                    int count) {
  load.request_rate = 0;
  load.max_concurrency = 1;
  std::vector<BenchPrompt> first;
  for (int i = 0; i < count; ++i) first.push_back(prompts[i % prompts.size()]);
  for (const RequestOutcome& outcome : RunLoad(target, load, first).outcomes) {
    if (outcome.status.ok()) continue;
    return absl::Status(outcome.status.code(), absl::StrCat("warming up: ", outcome.status.message()));
  }
  return absl::OkStatus();
}

}  // namespace

void BenchServeCommand::Declare(FlagSet& set, SharedFlags* /*shared*/) {
  ServeLoadOptions* load = &flags_.load;
  PromptOptions* prompts = &flags_.prompts;
  set.Text("base-url", &flags_.base_url, "the endpoint: http://HOST:PORT");
  set.Choice("api", &load->api, {{"completions", ServeApi::kCompletions}, {"chat", ServeApi::kChat}},
             "which of its routes: /v1/completions or /v1/chat/completions");
  set.Text("model", &load->model, "the model's id; without it the first of /v1/models");
  set.Text("api-key-file", &flags_.api_key_file, "file whose first key is sent; without it OPENAI_API_KEY, if set");
  set.Group("Load");
  set.Integer("num-prompts", &prompts->num_prompts, 1, 1 << 24, "requests");
  set.Real("request-rate", &load->request_rate, {1e-6, kMostPerSecond, RealRange::Low::kOrZero},
           "requests per second; 0: all at once");
  set.Choice("arrivals", &load->arrivals, {{"poisson", Arrivals::kPoisson}, {"fixed", Arrivals::kFixed}},
             "how they are spread at that rate");
  set.Integer("max-concurrency", &load->max_concurrency, 0, 1 << 20,
              "requests at a time, others wait until one has ended; 0: no bound");
  set.Integer("num-warmups", &flags_.num_warmups, 0, 1 << 20, "requests before, which are not counted");
  set.Duration("timeout", &load->timeout, "of a request");
  set.Group("Requests");
  set.Choice("prompts", &prompts->source, Sources(),
             "random words; conversations of --dataset; random words behind common beginnings");
  set.Text("dataset", &prompts->dataset_file, "JSON file in ShareGPT's format");
  set.Integer("input-len", &prompts->input_len, 1, kMaxTokensFlag,
              "of random prompts, or behind the beginning: tokens "
              "with --tokenizer, else words");
  set.Integer("output-len", &prompts->output_len, 1, kMaxTokensFlag,
              "tokens to generate; sharegpt has those of the conversation unless this is given");
  set.Real("range-ratio", &prompts->range_ratio, {0, 1},
           "lengths of random prompts and their answers vary by this share");
  set.Integer("prefix-len", &prompts->prefix_len, 1, kMaxTokensFlag, "of a common beginning");
  set.Integer("num-prefixes", &prompts->num_prefixes, 1, 1 << 20, "common beginnings");
  set.Text("tokenizer", &flags_.tokenizer_dir,
           "folder of a model whose tokenizer counts; without it words are counted");
  set.Real("temperature", &load->temperature, {0, 100}, "of all requests");
  set.Switch("ignore-eos", &load->end_of_text, ServeLoadOptions::EndOfText::kIgnored,
             "answers go on to their full length");
  set.Seed("seed", &prompts->seed, "of prompts and arrivals");
  set.Group("Results");
  set.Integers("percentiles", &flags_.percentiles, 1, 99, "of the times, besides median and mean (90,95,99)");
  set.Words("goodput", &flags_.goodput_limits, "what a good request keeps, in ms: ttft:500,tpot:50,e2el:3000");
  set.Text("json", &flags_.json_file, "JSON file to write, in the fields of vLLM's benchmark");
  set.Text("plot", &flags_.plot_file, "SVG file to write");
}

absl::Status BenchServeCommand::Check(const FlagSet& set, SharedFlags* /*shared*/) {
  TF_ASSIGN_OR_RETURN(flags_.target, ParseBaseUrl(flags_.base_url));
  TF_ASSIGN_OR_RETURN(flags_.goodput, ParseGoodput(flags_.goodput_limits));
  flags_.load.seed = flags_.prompts.seed;
  if (flags_.percentiles.empty()) flags_.percentiles = {90, 95, 99};
  TF_RETURN_IF_ERROR(CheckPromptFlags(set, flags_.prompts.source));
  if (flags_.prompts.source == PromptSource::kShareGpt && !set.given("output-len")) flags_.prompts.output_len = 0;
  if (set.given("arrivals") && flags_.load.request_rate == 0) {
    return absl::InvalidArgumentError(
        "--arrivals says how requests are spread at --request-rate R, which is not given");
  }
  return absl::OkStatus();
}

absl::Status BenchServeCommand::Bench() {
  BenchServeFlags& f = flags_;
  TF_ASSIGN_OR_RETURN(f.target.api_key, ApiKey(f.api_key_file));
  std::optional<Tokenizer> tokenizer;
  if (!f.tokenizer_dir.empty()) {
    TF_ASSIGN_OR_RETURN(tokenizer, Tokenizer::Load(f.tokenizer_dir));
  }
  TF_ASSIGN_OR_RETURN(const std::vector<BenchPrompt> prompts, MakePrompts(f.prompts, tokenizer));
  TF_ASSIGN_OR_RETURN(const auto json_file, Writer("--json", f.json_file));
  TF_ASSIGN_OR_RETURN(const auto plot_file, Writer("--plot", f.plot_file));
  TF_ASSIGN_OR_RETURN(const ResolvedTarget target, Resolve(f.target, f.load.timeout));
  if (f.load.model.empty()) {
    TF_ASSIGN_OR_RETURN(f.load.model, FirstModel(target, f.load.timeout));
  }
  TF_RETURN_IF_ERROR(WarmUp(target, f.load, prompts, f.num_warmups));
  const ServeLoadResult result = RunLoad(target, f.load, prompts);
  const ServeReport report = MakeReport(result, f.goodput, f.percentiles);
  std::fputs(ReportTable(report).c_str(), stdout);
  std::fflush(stdout);
  if (json_file) TF_RETURN_IF_ERROR(json_file->Commit(ReportJson(report, f.load, result, DateText())));
  if (plot_file) {
    const std::string title = absl::StrFormat("%s: %d requests, %.2f requests/s, %.1f tokens/s out", f.load.model,
                                              report.completed, report.request_throughput, report.output_throughput);
    TF_RETURN_IF_ERROR(plot_file->Commit(ReportPlot(report, title)));
  }
  if (report.failed == 0) return absl::OkStatus();
  return absl::UnavailableError(
      absl::StrCat(report.failed, " of ", result.outcomes.size(), " requests failed: ", report.errors.front().first));
}

std::optional<int> BenchServeCommand::RunInsteadOfRanks(const SharedFlags& /*shared*/) {
  const LauncherInfo launcher = GetLauncherInfo();
  absl::Status status = absl::OkStatus();
  if (launcher.num_ranks > 1) {
    status = absl::InvalidArgumentError(absl::StrCat("bench serve is one client process, but ", launcher.name,
                                                     " has started ", launcher.num_ranks, " of them; start it alone"));
  } else {
    status = Bench();
  }
  if (status.ok()) return 0;
  if (launcher.rank == 0 || !launcher.tells_size) PrintError(status.message());
  return 1;
}

}  // namespace tokenferry

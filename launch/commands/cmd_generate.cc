#include "launch/commands/cmd_generate.h"

#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "absl/algorithm/container.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "bench/alltoall/routing_trace.h"
#include "comm/transport/collectives.h"
#include "core/io/json_writer.h"
#include "core/log.h"
#include "launch/cli/flag_set.h"
#include "launch/cli/text_file.h"
#include "launch/commands/result_file.h"
#include "launch/commands/run_requests.h"
#include "launch/commands/terminal_chat.h"
#include "launch/ranks/stdout_watch.h"
#include "runtime/engine/generation_defaults.h"
#include "runtime/engine/sampler.h"
#include "runtime/text/chat/chat_template.h"
#include "runtime/text/chat/conversation.h"
#include "runtime/text/chat/local_time.h"
#include "runtime/text/text_stream.h"
#include "runtime/text/unicode.h"

namespace tokenferry {
namespace {

enum class Echo : uint8_t { kYes, kNo };  // whether the prompt is shown before what continues it

struct Prompt {
  std::string name;  // for errors
  std::string text;
  Echo echo = Echo::kYes;
  std::vector<int32_t> ids;
};

struct Output {
  std::string text;
  std::vector<int32_t> ids;
  std::vector<float> logprobs;
  FinishReason reason = FinishReason::kNone;
};

absl::Status ReadChats(const GenerateFlags& flags, const std::string& model_dir, const Tokenizer& tokenizer,
                       std::vector<Prompt>& prompts) {
  if (flags.chats.empty()) return absl::OkStatus();
  TF_ASSIGN_OR_RETURN(const ChatTemplate chat_template, ChatTemplate::Open(flags.chat_template, model_dir));
  for (const std::string& file : flags.chats) {
    const std::string name = absl::StrCat("--chat '", file, "'");
    TF_ASSIGN_OR_RETURN(const std::string json, ReadFlagFile("--chat", file));
    TF_ASSIGN_OR_RETURN(ChatInput input, ReadConversation(json, name));
    input.now = LocalNow();
    TF_ASSIGN_OR_RETURN(const TaggedText text, chat_template.Render(input));
    if (text.empty()) return absl::InvalidArgumentError(absl::StrCat(name, ": the chat template makes no text of it"));
    prompts.push_back({name, text.text(), Echo::kNo, tokenizer.Encode(text)});
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<Prompt>> ReadPrompts(const GenerateFlags& flags, const std::string& model_dir,
                                                const ModelFiles& files) {
  std::vector<Prompt> prompts;
  for (const std::string& text : flags.prompts) prompts.push_back({absl::StrCat("prompt ", prompts.size()), text});
  for (const std::string& file : flags.prompt_files) {
    TF_ASSIGN_OR_RETURN(std::string text, ReadFlagFile("--prompt-file", file));
    prompts.push_back({absl::StrCat("--prompt-file '", file, "'"), std::move(text)});
  }
  const PromptEnd end = files.model.has_encoder() ? PromptEnd::kClosed : PromptEnd::kOpen;
  for (Prompt& prompt : prompts) prompt.ids = EncodePrompt(*files.tokenizer, prompt.text, end);
  TF_RETURN_IF_ERROR(ReadChats(flags, model_dir, *files.tokenizer, prompts));
  for (const Prompt& prompt : prompts) {
    if (prompt.text.empty()) return absl::InvalidArgumentError(absl::StrCat(prompt.name, " is empty"));
    TF_RETURN_IF_ERROR(
        CheckContext(prompt.name, static_cast<int64_t>(prompt.ids.size()), flags.max_tokens, files.model));
  }
  return prompts;
}

template <auto kField>
void TakeField(const SamplingParams& from, SamplingParams& to) {
  to.*kField = from.*kField;
}

// Whether a parameter means something at temperature 0.
enum class WhenGreedy : uint8_t { kUsed, kUnused };

// The flags that Declare writes into GenerateFlags::sampling.
struct SamplingFlag {
  absl::string_view name;
  void (*take)(const SamplingParams& from, SamplingParams& to);
  WhenGreedy when_greedy = WhenGreedy::kUsed;
};
constexpr SamplingFlag kSamplingFlags[] = {
    {"temperature", TakeField<&SamplingParams::temperature>},
    {"top-k", TakeField<&SamplingParams::top_k>, WhenGreedy::kUnused},
    {"top-p", TakeField<&SamplingParams::top_p>, WhenGreedy::kUnused},
    {"min-p", TakeField<&SamplingParams::min_p>, WhenGreedy::kUnused},
    {"repetition-penalty", TakeField<&SamplingParams::repetition_penalty>},
    {"presence-penalty", TakeField<&SamplingParams::presence_penalty>},
    {"frequency-penalty", TakeField<&SamplingParams::frequency_penalty>},
    {"seed", TakeField<&SamplingParams::seed>, WhenGreedy::kUnused},
};

// What is given, and `defaults` for the rest.
SamplingParams Sampling(const GenerateFlags& flags, const SamplingParams& defaults) {
  SamplingParams params = defaults;
  for (const SamplingFlag& flag : kSamplingFlags) {
    if (absl::c_linear_search(flags.given, flag.name)) flag.take(flags.sampling, params);
  }
  return params;
}

// How each prompt is continued: by the flags alone, conversations by what the model says where the flags are silent.
struct Samplings {
  SamplingParams plain, chat;
  const SamplingParams& Of(const Prompt& prompt) const { return prompt.echo == Echo::kYes ? plain : chat; }
};

void WarnOfUnused(const GenerateFlags& flags, const Samplings& samplings) {
  const bool plain = !flags.prompts.empty() || !flags.prompt_files.empty();
  const bool chats = flags.conversation || !flags.chats.empty();
  const bool plain_is_greedy = plain && samplings.plain.temperature == 0;
  const bool chats_are_greedy = chats && samplings.chat.temperature == 0;
  std::vector<absl::string_view> unused;
  for (const SamplingFlag& flag : kSamplingFlags) {
    if (flag.when_greedy == WhenGreedy::kUnused && absl::c_linear_search(flags.given, flag.name)) {
      unused.push_back(flag.name);
    }
  }
  if (unused.empty() || !(plain_is_greedy || chats_are_greedy)) return;
  const char* const where = chats && !chats_are_greedy ? " for plain prompts" : "";  // the model samples the others
  LogWarning(absl::StrCat("--", absl::StrJoin(unused, ", --"), unused.size() == 1 ? " does" : " do", " nothing", where,
                          " at temperature 0, where the likeliest token is always taken"));
}

StopRules StopRulesOf(const GenerateFlags& flags, const ModelFiles& files) {
  return {flags.ignore_eos ? std::vector<int32_t>() : files.generation->eos_token_ids, flags.stop};
}

// Rank 0's side of a run: feeds tokens into text and shows it, the first unfinished prompt as it comes.
class Printer {
 public:
  Printer(const GenerateFlags& flags, const ModelFiles& files, const std::vector<Prompt>& prompts)
      : flags_(flags), prompts_(prompts), continues_(!files.model.has_encoder()) {
    const StopRules rules = StopRulesOf(flags, files);
    for (size_t i = 0; i < prompts.size(); ++i) streams_.emplace_back(*files.tokenizer, rules);
    outputs_.resize(prompts.size());
    Show();
  }

  // Cancelled when nobody reads what it shows.
  absl::StatusOr<Proceed> Take(size_t i, const SampledToken& token, bool last) {
    Output& out = outputs_[i];
    out.ids.push_back(token.token);
    out.logprobs.push_back(token.logprob);
    out.text += streams_[i].Push(token.token);
    if (last && streams_[i].finished() == FinishReason::kNone) out.text += streams_[i].Finish();
    out.reason = streams_[i].finished();
    Show();
    TF_RETURN_IF_ERROR(CheckStdoutIsRead());
    return out.reason == FinishReason::kNone ? Proceed::kGoOn : Proceed::kFinish;
  }

  std::string JsonText(const RunReport& report) const {
    nlohmann::ordered_json json;
    json["outputs"] = nlohmann::ordered_json::array();
    for (size_t i = 0; i < outputs_.size(); ++i) {
      json["outputs"].push_back({{"prompt", prompts_[i].text},
                                 {"prompt_ids", prompts_[i].ids},
                                 {"text", outputs_[i].text},
                                 {"ids", outputs_[i].ids},
                                 {"logprobs", outputs_[i].logprobs},
                                 {"finish_reason", outputs_[i].reason == FinishReason::kStop ? "stop" : "length"}});
    }
    json["report"] = report.Json();
    return FormatJson(json);
  }

 private:
  void Show() {
    if (flags_.json) return;
    while (current_ < outputs_.size()) {
      if (shown_ == std::string::npos) {
        if (prompts_.size() > 1) std::printf("[%zu] ", current_);
        const std::string& prompt = prompts_[current_].text;
        if (continues_ && prompts_[current_].echo == Echo::kYes) std::fwrite(prompt.data(), 1, prompt.size(), stdout);
        shown_ = 0;
      }
      const Output& out = outputs_[current_];
      std::fwrite(out.text.data() + shown_, 1, out.text.size() - shown_, stdout);
      shown_ = out.text.size();
      if (out.reason == FinishReason::kNone) break;
      std::fputs("\n", stdout);
      ++current_;
      shown_ = std::string::npos;
    }
    std::fflush(stdout);
  }

  const GenerateFlags& flags_;
  const std::vector<Prompt>& prompts_;
  const bool continues_;  // what comes stands behind the prompt; else it is the answer to it
  std::vector<TextStream> streams_;
  std::vector<Output> outputs_;
  size_t current_ = 0, shown_ = std::string::npos;
};

// Collects the experts that tokens choose, for --record-routing; `file` is rank 0's.
class RoutingCollector {
 public:
  RoutingCollector(Engine& engine, std::unique_ptr<TextFileWriter> file) : file_(std::move(file)) {
    engine.RecordRouting([this](int64_t step, int layer, absl::Span<const int32_t> expert_idx) {
      mine_.push_back({step, layer, {expert_idx.begin(), expert_idx.end()}});
    });
  }

  // Collective: rank 0 writes the file. The ranks have recorded the same steps and layers.
  absl::Status Write(Transport& transport, const ModelSpec& spec, const std::string& model) const {
    std::string bytes;  // per record: number of experts, then they
    for (const RoutingTrace::Record& r : mine_) {
      const auto size = static_cast<int64_t>(r.expert_idx.size());
      bytes.append(reinterpret_cast<const char*>(&size), sizeof(size));
      bytes.append(reinterpret_cast<const char*>(r.expert_idx.data()), size * sizeof(int32_t));
    }
    TF_ASSIGN_OR_RETURN(const std::vector<std::string> all, Gather(transport, {"routing"}, RankId(0), bytes));
    absl::Status written = absl::OkStatus();
    if (transport.rank() == RankId(0)) written = WriteAll(all, spec, model);
    return AgreeOnStatus(transport, {"routing"}, written);
  }

 private:
  absl::Status WriteAll(const std::vector<std::string>& all, const ModelSpec& spec, const std::string& model) const {
    RoutingTrace trace{.num_experts = static_cast<int>(spec.moe.num_experts),
                       .top_k = static_cast<int>(spec.moe.router.top_k),
                       .source = std::filesystem::path(model).lexically_normal().filename().string(),
                       .records = mine_};
    for (RoutingTrace::Record& record : trace.records) record.expert_idx.clear();
    for (size_t rank = 0; rank < all.size(); ++rank) {
      absl::string_view rest = all[rank];
      for (RoutingTrace::Record& record : trace.records) {
        int64_t size = -1;
        if (rest.size() >= sizeof(size)) std::memcpy(&size, rest.data(), sizeof(size));
        if (size < 0 || size > static_cast<int64_t>((rest.size() - sizeof(size)) / sizeof(int32_t))) {
          return absl::DataLossError(absl::StrCat("rank ", rank, " has recorded other steps than rank 0"));
        }
        const size_t begin = record.expert_idx.size();
        record.expert_idx.resize(begin + size);
        if (size > 0) std::memcpy(&record.expert_idx[begin], rest.data() + sizeof(size), size * sizeof(int32_t));
        rest.remove_prefix(sizeof(size) + size * sizeof(int32_t));
      }
    }
    return file_->Commit(RoutingTraceText(trace));
  }

  std::unique_ptr<TextFileWriter> file_;
  std::vector<RoutingTrace::Record> mine_;
};

}  // namespace

void GenerateCommand::Declare(FlagSet& set, SharedFlags* shared) {
  GenerateFlags* f = &flags_;
  SamplingParams* p = &f->sampling;
  set.Texts("prompt", &f->prompts, "text to continue; repeat for a batch");
  set.Texts("prompt-file", &f->prompt_files, "file whose text is one more prompt; repeatable; -: stdin");
  set.Texts("chat", &f->chats, "file with a conversation (JSON: messages, tools, ..) to answer; repeatable; -: stdin");
  set.Switch("conversation", &f->conversation,
             "chat: each line of stdin is a message to answer; also without it where stdin is a terminal");
  set.Text("chat-template", &f->chat_template, "of a conversation: a Jinja file, or one of the model's by name");
  set.Integer("max-tokens", &f->max_tokens, 1, kMaxTokensFlag, "new tokens per prompt");
  set.Switch("ignore-eos", &f->ignore_eos, "go on after the end-of-text token");
  set.Real("temperature", &p->temperature, {kMinTemperature, kMaxTemperature, RealRange::Low::kOrZero},
           "0: always the likeliest token");
  set.Real("top-p", &p->top_p, {kMinTopP, 1}, "sample from the likeliest tokens of this total probability");
  set.Integer("top-k", &p->top_k, 0, kMaxTokensFlag, "sample from the k likeliest tokens; 0: all");
  set.Real("min-p", &p->min_p, {0, 1}, "drop tokens less likely than this share of the likeliest");
  set.Real("repetition-penalty", &p->repetition_penalty, {kMinRepetitionPenalty, kMaxRepetitionPenalty},
           "divides the logits of seen tokens");
  set.Real("presence-penalty", &p->presence_penalty, {-kMaxPresencePenalty, kMaxPresencePenalty},
           "subtracted from the logits of generated tokens");
  set.Real("frequency-penalty", &p->frequency_penalty, {-kMaxFrequencyPenalty, kMaxFrequencyPenalty},
           "the same, once for every time that a token was generated");
  set.Seed("seed", &p->seed, "of sampling");
  set.Texts("stop", &f->stop, "text that ends a sequence; repeatable");
  set.Switch("json", &f->json, "print one JSON document instead of streaming");
  set.Switch("stats", &f->stats, "close with a table of speed, traffic, load and memory");
  set.Text("record-routing", &f->record_routing,
           "file to write: the experts that every token chose, for bench alltoall");
  DeclareModelFlags(set, shared);
  DeclareEngineFlags(set, shared);
}

absl::Status GenerateCommand::Check(const FlagSet& set, SharedFlags* shared) {
  for (const SamplingFlag& flag : kSamplingFlags) {
    if (set.given(std::string(flag.name))) flags_.given.emplace_back(flag.name);
  }
  flags_.has_max_tokens = set.given("max-tokens");
  for (const std::string& stop : flags_.stop) {
    if (!IsValidUtf8(stop)) return absl::InvalidArgumentError("--stop: is not UTF-8");
  }
  if (flags_.conversation) TF_RETURN_IF_ERROR(CheckConversation());
  if (absl::c_count(flags_.prompt_files, "-") + absl::c_count(flags_.chats, "-") > 1) {
    return absl::InvalidArgumentError(
        absl::StrCat(flags_.chats.empty() ? "--prompt-file" : "--chat", " -: stdin can be read only once"));
  }
  if (flags_.json && flags_.stats) {
    return absl::InvalidArgumentError("--stats is a table below the text; the document of --json has all of it");
  }
  if (HasPrompts() && flags_.chats.empty() && !flags_.chat_template.empty()) {
    return absl::InvalidArgumentError("--chat-template is for conversations: --chat F or --conversation");
  }
  return CheckEngineFlags(set, *shared);
}

bool GenerateCommand::HasPrompts() const {
  return !flags_.prompts.empty() || !flags_.prompt_files.empty() || !flags_.chats.empty();
}

absl::Status GenerateCommand::CheckConversation() const {
  if (HasPrompts()) {
    return absl::InvalidArgumentError(
        "--conversation takes messages from stdin, without --prompt, --prompt-file, --chat");
  }
  if (flags_.json || !flags_.record_routing.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("a conversation does not take ", flags_.json ? "--json" : "--record-routing"));
  }
  return absl::OkStatus();
}

// A launcher's ranks have no terminal: they are told.
absl::Status GenerateCommand::PrepareProcess(const SharedFlags& /*shared*/, const LauncherInfo& /*launcher*/,
                                             char* const* /*argv*/) {
  if (flags_.conversation || HasPrompts()) return absl::OkStatus();
  if (isatty(STDIN_FILENO) == 0) {
    return absl::InvalidArgumentError(
        "generate needs --prompt TEXT, --prompt-file F, --chat F, or --conversation for messages from stdin");
  }
  flags_.conversation = true;
  return CheckConversation();
}

absl::Status GenerateCommand::Run(RankContext& context) const {
  const GenerateFlags& flags = flags_;
  Transport& transport = context.transport;
  const bool first = transport.rank() == RankId(0);
  TF_ASSIGN_OR_RETURN(std::unique_ptr<ModelFiles> files, OpenModel(context, TokenizerUse::kNeeded));
  absl::StatusOr<std::vector<Prompt>> prompts = std::vector<Prompt>();
  absl::Status valid = files->generation.status();
  Samplings samplings;
  if (valid.ok()) {
    samplings = {flags.sampling, Sampling(flags, DefaultSampling(*files->generation))};
    valid = Validate(samplings.plain);
    if (valid.ok()) valid = Validate(samplings.chat);
    if (first) WarnOfUnused(flags, samplings);
    const bool chats = flags.conversation || !flags.chats.empty();
    const std::string warning = chats ? WarningOf(*files->generation) : "";
    if (first && !warning.empty()) LogWarning(warning);
  }
  if (first && valid.ok()) {
    prompts = ReadPrompts(flags, context.flags.model, *files);
    valid = prompts.status();
  }
  TF_RETURN_IF_ERROR(AgreeOnStatus(transport, {"prompts"}, valid));
  if (flags.conversation) {
    TerminalChatOptions options = {samplings.chat, StopRulesOf(flags, *files), flags.chat_template};
    if (flags.has_max_tokens) options.answer_tokens = flags.max_tokens;
    if (flags.stats) options.report = ReportAnswers::kYes;
    return ChatOnTerminal(context, std::move(files), options);
  }
  TF_ASSIGN_OR_RETURN(auto routing_file, OpenResultFile(context, "--record-routing", flags.record_routing));
  std::vector<Request> requests;
  for (const Prompt& p : *prompts) {
    requests.push_back({p.ids, RequestKind::kGenerate, flags.max_tokens, samplings.Of(p)});
  }
  TF_ASSIGN_OR_RETURN(std::unique_ptr<ModelSession> session, StartSession(context, std::move(files), requests));
  std::optional<RoutingCollector> collector;
  if (!flags.record_routing.empty()) collector.emplace(*session->engine, std::move(routing_file));
  std::optional<Printer> printer;
  if (first) printer.emplace(flags, *session->files, *prompts);
  TF_ASSIGN_OR_RETURN(const RunReport report, RunRequests(context, *session, requests, [&](const SequenceUpdate& u) {
                        return u.has_token ? printer->Take(u.seq, u.token, u.finished()) : Proceed::kGoOn;
                      }));
  if (collector) {
    TF_RETURN_IF_ERROR(collector->Write(transport, session->files->model, context.flags.model));
  }
  if (!first) return absl::OkStatus();
  if (flags.json) std::printf("%s\n", printer->JsonText(report).c_str());
  if (flags.stats) std::printf("\n%s", report.Table().c_str());
  return absl::OkStatus();
}

}  // namespace tokenferry

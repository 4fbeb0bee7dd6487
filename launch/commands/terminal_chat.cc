#include "launch/commands/terminal_chat.h"

#include <poll.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/str_format.h"
#include "comm/transport/collectives.h"
#include "core/host/clock.h"
#include "core/log.h"
#include "launch/ranks/stdout_watch.h"
#include "launch/reports/run_report.h"
#include "runtime/engine/serving_loop.h"
#include "runtime/text/chat/chat_template.h"
#include "runtime/text/chat/conversation.h"
#include "runtime/text/chat/local_time.h"
#include "runtime/text/unicode.h"

namespace tokenferry {
namespace {

std::atomic<bool> interrupted = false;
static_assert(std::atomic<bool>::is_always_lock_free, "it is set by a signal handler");

// While it lives, SIGINT is noted instead of ending the process.
class InterruptWatch {
 public:
  InterruptWatch() {
    interrupted = false;
    struct sigaction action = {};
    action.sa_handler = [](int) { interrupted = true; };
    action.sa_flags = SA_RESTART;
    sigaction(SIGINT, &action, &before_);
  }
  ~InterruptWatch() { sigaction(SIGINT, &before_, nullptr); }
  InterruptWatch(const InterruptWatch&) = delete;
  InterruptWatch& operator=(const InterruptWatch&) = delete;

  bool Take() { return interrupted.exchange(false); }

 private:
  struct sigaction before_ = {};
};

// Lines of stdin, without waiting longer than asked.
class LineReader {
 public:
  // The next line, without its end; none: it has not come within `wait`, or there are no more (at_end).
  absl::StatusOr<std::optional<std::string>> Read(absl::Duration wait) {
    if (auto line = TakeLine()) return line;
    pollfd in = {STDIN_FILENO, POLLIN, 0};
    if (at_end_ || poll(&in, 1, static_cast<int>(absl::ToInt64Milliseconds(wait))) <= 0) return std::nullopt;
    char bytes[4096];
    const ssize_t count = read(STDIN_FILENO, bytes, sizeof(bytes));
    if (count < 0 && errno == EINTR) return std::nullopt;
    if (count < 0) return absl::UnavailableError(absl::StrCat("cannot read stdin: ", std::strerror(errno)));
    at_end_ = count == 0;
    buffer_.append(bytes, count);
    if (at_end_ && !buffer_.empty()) buffer_ += '\n';
    if (buffer_.size() > kMaxLine && buffer_.find('\n') == std::string::npos) {
      return absl::InvalidArgumentError(absl::StrCat("a line of stdin is longer than ", kMaxLine, " bytes"));
    }
    return TakeLine();
  }
  bool at_end() const { return at_end_ && buffer_.empty(); }

 private:
  static constexpr size_t kMaxLine = size_t{1} << 20;

  std::optional<std::string> TakeLine() {
    const size_t end = buffer_.find('\n');
    if (end == std::string::npos) return std::nullopt;
    std::string line = buffer_.substr(0, end);
    buffer_.erase(0, end + 1);
    if (!line.empty() && line.back() == '\r') line.pop_back();
    return line;
  }

  std::string buffer_;
  bool at_end_ = false;
};

void Print(absl::string_view text) {
  std::fwrite(text.data(), 1, text.size(), stdout);
  std::fflush(stdout);
}

// Rank 0's side: either a message is awaited, or its answer is.
class Conversation {
 public:
  Conversation(const ModelFiles& files, const ChatTemplate& chat_template, const TerminalChatOptions& options,
               int64_t context_tokens)
      : tokenizer_(*files.tokenizer),
        chat_template_(chat_template),
        options_(options),
        context_tokens_(context_tokens) {
    Print(kMark);
  }

  absl::StatusOr<std::vector<Command>> Commands(absl::Duration wait) {
    TF_RETURN_IF_ERROR(CheckStdoutIsRead());
    std::vector<Command> commands;
    const bool stop = interrupt_.Take();
    if (stop && answer_) EndAnswer();
    if (std::exchange(must_cancel_, false)) commands.emplace_back(CancelCommand{num_messages_});
    if (answer_) return commands;
    if (stop && commands.empty()) Print(absl::StrCat("\n(Ctrl-D ends the conversation)\n", kMark));
    TF_ASSIGN_OR_RETURN(const std::optional<std::string> line,
                        lines_.Read(commands.empty() ? wait : absl::ZeroDuration()));
    if (line && line->empty()) Print(kMark);
    if (line && !line->empty()) {
      if (auto request = Ask(*line); request.ok()) {
        commands.emplace_back(AddCommand{++num_messages_, *std::move(request)});
        answer_.emplace(tokenizer_, options_.stop);
      } else {
        PassOver(request.status());
      }
    }
    if (lines_.at_end() && !answer_) {
      if (!std::exchange(has_ended_, true)) Print("\n");
      commands.emplace_back(DrainCommand{});
    }
    return commands;
  }

  absl::Status Take(const StepReport& report) {
    for (const RequestUpdate& u : report.updates) {
      if (!answer_ || u.id != num_messages_) continue;
      const SequenceUpdate& update = u.update;
      if (!update.error.ok()) {
        answer_.reset();
        messages_.erase(messages_.size() - 1);
        PassOver(update.error);
        continue;
      }
      if (!update.has_token) continue;
      if (answer_->num_tokens++ == 0) answer_->num_cached_tokens = update.num_cached_tokens;
      Show(answer_->stream.Push(update.token.token));
      const bool stopped = answer_->stream.finished() != FinishReason::kNone;
      must_cancel_ = stopped && !update.finished();
      if (stopped || update.finished()) EndAnswer();
      if (update.finished()) must_cancel_ = false;
    }
    return absl::OkStatus();
  }

 private:
  static constexpr absl::string_view kMark = ">>> ";

  struct Answer {
    Answer(const Tokenizer& tokenizer, const StopRules& stop) : stream(tokenizer, stop) {}
    TextStream stream;
    std::string text;
    int64_t num_tokens = 0, num_cached_tokens = 0;  // new ones; of the prompt
    Stopwatch watch;
  };

  // The conversation with one more message; without it again where it cannot be answered.
  absl::StatusOr<Request> Ask(const std::string& message) {
    if (!IsValidUtf8(message)) return absl::InvalidArgumentError("the message is not UTF-8");
    messages_.push_back({{"role", "user"}, {"content", message}});
    absl::StatusOr<Request> request = MakeRequest();
    if (!request.ok()) messages_.erase(messages_.size() - 1);
    return request;
  }

  absl::StatusOr<Request> MakeRequest() {
    TF_ASSIGN_OR_RETURN(ChatInput input, ReadConversation(messages_.dump(), "the conversation"));
    input.now = LocalNow();
    TF_ASSIGN_OR_RETURN(const TaggedText text, chat_template_.Render(input));
    if (text.empty()) return absl::InvalidArgumentError("the chat template makes no text of the conversation");
    Request request;
    request.prompt = tokenizer_.Encode(text);
    num_prompt_tokens_ = static_cast<int64_t>(request.prompt.size());
    const int64_t room = context_tokens_ - num_prompt_tokens_;
    if (room < 1) {
      return absl::ResourceExhaustedError(absl::StrCat("the conversation has ", num_prompt_tokens_,
                                                       " tokens with this message, and the context holds ",
                                                       context_tokens_, " and an answer's"));
    }
    request.max_new_tokens = options_.answer_tokens > 0 ? std::min(options_.answer_tokens, room) : room;
    request.sampling = options_.sampling;
    return request;
  }

  void PassOver(const absl::Status& error) {
    LogWarning(absl::StrCat("the last message is passed over: ", error.message()));
    Print(kMark);
  }

  void Show(const std::string& text) {
    answer_->text += text;
    Print(text);
  }

  // It stays in the conversation, however it has ended.
  void EndAnswer() {
    if (answer_->stream.finished() == FinishReason::kNone) {
      must_cancel_ = true;
      Show(answer_->stream.Finish());
    }
    messages_.push_back({{"role", "assistant"}, {"content", answer_->text}});
    Print("\n");
    if (options_.report == ReportAnswers::kYes) {
      LogInfo(absl::StrFormat("message %d: %d tokens, %d of them from the cache; answer: %d tokens in %.2f s",
                              num_messages_, num_prompt_tokens_, answer_->num_cached_tokens, answer_->num_tokens,
                              answer_->watch.seconds()));
    }
    answer_.reset();
    Print(kMark);
  }

  const Tokenizer& tokenizer_;
  const ChatTemplate& chat_template_;
  const TerminalChatOptions& options_;
  const int64_t context_tokens_;
  InterruptWatch interrupt_;
  LineReader lines_;
  nlohmann::ordered_json messages_ = nlohmann::ordered_json::array();
  uint64_t num_messages_ = 0;      // of the user; also the last one's id
  int64_t num_prompt_tokens_ = 0;  // of the last message
  std::optional<Answer> answer_;   // none: a message is awaited
  bool must_cancel_ = false;       // the sequence of the answer that has ended
  bool has_ended_ = false;
};

}  // namespace

absl::Status ChatOnTerminal(RankContext& context, std::unique_ptr<ModelFiles> files,
                            const TerminalChatOptions& options) {
  const bool first = context.rank() == RankId(0);
  absl::StatusOr<ChatTemplate> chat_template = absl::UnknownError("rank 0's");
  if (first) chat_template = ChatTemplate::Open(options.chat_template, context.flags.model);
  TF_RETURN_IF_ERROR(
      AgreeOnStatus(context.transport, {"chat template"}, first ? chat_template.status() : absl::OkStatus()));
  const int64_t asked = context.flags.kv_cache_tokens > 0 ? context.flags.kv_cache_tokens : kServingCacheTokens;
  const int64_t context_tokens = std::min(asked, files->model.max_position_embeddings);
  TF_ASSIGN_OR_RETURN(std::unique_ptr<ModelSession> session,
                      StartServingSession(context, std::move(files), {1, context_tokens}, nullptr));
  std::optional<Conversation> conversation;
  if (first) conversation.emplace(*session->files, *chat_template, options, context_tokens);
  TF_RETURN_IF_ERROR(RunServingLoop(
      *session->engine, [&](absl::Duration wait) { return conversation->Commands(wait); }, {},
      [&](const StepReport& report) { return conversation->Take(report); }));
  if (options.report == ReportAnswers::kNo) return absl::OkStatus();
  TF_ASSIGN_OR_RETURN(const RunReport report, CollectReport(context, *session));
  if (first) Print(absl::StrCat("\n", report.Table()));
  return absl::OkStatus();
}

}  // namespace tokenferry

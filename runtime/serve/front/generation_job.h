// One request for text from its first token to its answer: tokens become text, text ends at stop strings, and what is
// there is written, at once for a stream and in the end otherwise.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/host/clock.h"
#include "runtime/serve/api/answer.h"
#include "runtime/serve/front/dispatcher.h"
#include "runtime/serve/front/metrics_registry.h"
#include "runtime/serve/http/http.h"
#include "runtime/text/text_stream.h"

namespace tokenferry {

class GenerationJob final : public RequestSink, public std::enable_shared_from_this<GenerationJob> {
 public:
  struct Surroundings {
    Dispatcher& dispatcher;
    MetricsRegistry& metrics;
    std::shared_ptr<const ServedModel> model;
  };

  // `facts`: what the answer says of itself. `on_end` is called once, when the exchange has its answer or its client
  // has gone; the job may be dropped then.
  GenerationJob(Surroundings surroundings, GenerationRequest request, AnswerFacts facts,
                std::unique_ptr<AnswerFormat> format, std::shared_ptr<HttpExchange> exchange,
                std::function<void()> on_end);

  // Hands the sequences to the dispatcher, under the client's key. Answers at once when that refuses.
  void Start(const std::string& key);
  // Called about once a second: ends the request when its time is over, and keeps a silent stream's connection awake.
  void Tick();

  void OnToken(size_t sequence_idx, const TokenUpdate& update) override;
  void OnPromptScores(size_t sequence_idx, const PromptScores& scores) override;
  void OnFailed(size_t sequence_idx, const HttpError& error) override;
  void OnStepEnd() override;

 private:
  struct Choice {
    TextStream stream;
    std::optional<OutputParser> parser;      // of chats
    ChoicePart part;                         // since the last event of a stream, or everything
    size_t num_scored = 1;                   // tokens of the prompt whose scores have come; the first has none
    bool begun = false;                      // the prompt is echoed, or needs not be
    std::optional<Stopwatch> since_token{};  // the last one of its output
  };
  const GenerationRequest::Prompt& PromptOf(size_t idx) const { return request_.prompts[idx / request_.num_choices]; }
  bool wants_scores() const { return request_.echo && request_.num_logprobs >= 0; }

  AddRequest SequenceOf(size_t idx) const;
  // Nothing of the choice's prompt has still to be scored.
  bool AllScored(size_t idx) const;
  // The prompt's text; its tokens are there where logprobs are wanted.
  void Echo(size_t idx);
  static void TakeText(Choice& choice, const std::string& text);
  void EndChoice(Choice& choice, ChoiceEnd end);
  void WriteParts();
  void BeginStream();
  void Answer();
  void Fail(const HttpError& error);
  void End(absl::string_view outcome);

  Surroundings around_;
  GenerationRequest request_;
  AnswerFacts facts_;
  std::unique_ptr<AnswerFormat> format_;
  std::shared_ptr<HttpExchange> exchange_;  // null: ended
  std::function<void()> on_end_;
  std::vector<Choice> choices_;
  size_t num_open_ = 0;             // choices that have not ended
  std::optional<uint64_t> number_;  // with the dispatcher
  Usage usage_;
  bool stream_begun_ = false, first_token_seen_ = false;
  const Stopwatch since_start_;
  Deadline deadline_;
  Stopwatch since_write_;
};

}  // namespace tokenferry

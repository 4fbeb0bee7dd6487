#include "runtime/serve/front/generation_job.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "runtime/serve/api/api_status.h"

namespace tokenferry {
namespace {

// A comment that clients pass over: proxies cut connections on which nothing comes.
constexpr absl::Duration kPingAfter = absl::Seconds(15);
constexpr absl::string_view kPing = ": ping\n\n";

HttpResponse StreamHead() {
  HttpResponse head;
  head.content_type = "text/event-stream; charset=utf-8";
  head.fields = {{"Cache-Control", "no-cache"}, {"X-Accel-Buffering", "no"}};
  return head;
}

ChoiceEnd EndOf(const TextStream& stream, const std::optional<OutputParser>& parser) {
  const bool one_call = parser && parser->ended();
  if (stream.finished() != FinishReason::kStop && !one_call) return ChoiceEnd::kLength;
  if (parser && parser->num_calls() > 0) return ChoiceEnd::kToolCalls;
  return stream.stop_string().empty() ? ChoiceEnd::kStopToken : ChoiceEnd::kStopString;
}

}  // namespace

GenerationJob::GenerationJob(Surroundings surroundings, GenerationRequest request, AnswerFacts facts,
                             std::unique_ptr<AnswerFormat> format, std::shared_ptr<HttpExchange> exchange,
                             std::function<void()> on_end)
    : around_(std::move(surroundings)),
      request_(std::move(request)),
      facts_(std::move(facts)),
      format_(std::move(format)),
      exchange_(std::move(exchange)),
      on_end_(std::move(on_end)),
      deadline_(Deadline::After(request_.timeout)) {}

AddRequest GenerationJob::SequenceOf(size_t idx) const {
  AddRequest sequence;
  sequence.prompt = PromptOf(idx).ids;
  sequence.max_new_tokens = request_.max_new_tokens;
  sequence.sampling = request_.sampling;
  sequence.sampling.seed += idx % request_.num_choices;
  sequence.prompt_scores = wants_scores() ? WantPromptScores::kYes : WantPromptScores::kNo;
  sequence.routing = request_.routing ? WantRouting::kYes : WantRouting::kNo;
  sequence.cache_scope = request_.cache_salt;
  return sequence;
}

void GenerationJob::Start(const std::string& key) {
  const size_t count = request_.prompts.size() * request_.num_choices;
  StopRules rules{request_.sampling.stop_token_ids, request_.stop, {}};
  if (request_.output) rules.shown_tokens = request_.output->Signs();
  for (size_t i = 0; i < count; ++i) {
    choices_.push_back({TextStream(around_.model->tokenizer, rules), {}, {}});
    if (request_.output) choices_[i].parser.emplace(*request_.output);
    choices_[i].part.choice_idx = static_cast<int64_t>(i);
    if (wants_scores()) {
      AnswerToken first;
      first.reported.token = PromptOf(i).ids[0];
      first.has_logprob = false;
      choices_[i].part.tokens.push_back(std::move(first));
    }
    if (request_.echo && AllScored(i)) Echo(i);
  }
  for (const auto& prompt : request_.prompts) usage_.prompt_tokens += static_cast<int64_t>(prompt.ids.size());
  facts_.prompt_tokens = usage_.prompt_tokens;
  num_open_ = count;
  around_.metrics.OnStart(usage_.prompt_tokens);
  exchange_->OnGone([weak = weak_from_this()] {
    const auto self = weak.lock();
    if (self && self->exchange_) self->End("abort");
  });
  const auto self = shared_from_this();
  if (request_.max_new_tokens == 0 && !wants_scores()) {
    for (Choice& choice : choices_) EndChoice(choice, ChoiceEnd::kLength);
    return OnStepEnd();
  }
  std::vector<AddRequest> sequences;
  for (size_t i = 0; i < count; ++i) {
    sequences.push_back(SequenceOf(i));
    // Cached prefixes are never shared between keys.
    sequences[i].cache_scope = absl::StrCat(key, "\n", sequences[i].cache_scope);
  }
  absl::StatusOr<uint64_t> number = around_.dispatcher.Submit(key, std::move(sequences), self);
  if (!number.ok()) return Fail(ToHttpError(number.status()));
  if (exchange_) number_ = *number;
}

bool GenerationJob::AllScored(size_t idx) const {
  return !wants_scores() || choices_[idx].num_scored == PromptOf(idx).ids.size();
}

void GenerationJob::Echo(size_t idx) {
  Choice& choice = choices_[idx];
  choice.begun = true;
  choice.part.text = PromptOf(idx).text + choice.part.text;
}

void GenerationJob::OnPromptScores(size_t sequence_idx, const PromptScores& scores) {
  Choice& choice = choices_[sequence_idx];
  const std::vector<int32_t>& prompt = PromptOf(sequence_idx).ids;
  for (size_t i = 0; i < scores.logprobs.size() && choice.num_scored < prompt.size(); ++i, ++choice.num_scored) {
    AnswerToken token;
    token.reported = {prompt[choice.num_scored], scores.logprobs[i]};
    if (i < scores.top.size()) token.top = scores.top[i];
    choice.part.tokens.push_back(std::move(token));
  }
  if (AllScored(sequence_idx) && !choice.begun) Echo(sequence_idx);
  if (scores.end != OutputEnd::kNone) EndChoice(choice, ChoiceEnd::kLength);
}

void GenerationJob::OnToken(size_t sequence_idx, const TokenUpdate& update) {
  Choice& choice = choices_[sequence_idx];
  if (!first_token_seen_) around_.metrics.OnFirstToken(since_start_.seconds());
  if (choice.since_token) around_.metrics.OnNextToken(choice.since_token->seconds());
  first_token_seen_ = true;
  choice.since_token.emplace();
  usage_.completion_tokens += 1;
  // A prompt counts once, as it does in prompt_tokens: as its first choice found it.
  if (sequence_idx % request_.num_choices == 0) usage_.cached_tokens += update.num_cached_tokens;
  around_.metrics.OnToken();
  choice.part.tokens.push_back({update.sampled, update.top, update.expert_idx});
  TakeText(choice, choice.stream.Push(update.sampled.token));
  if (update.end != OutputEnd::kNone && choice.stream.finished() == FinishReason::kNone) {
    TakeText(choice, choice.stream.Finish());
  }
  const bool one_call = choice.parser && choice.parser->ended();
  if (choice.stream.finished() == FinishReason::kNone && !one_call) return;
  if (choice.parser) choice.parser->Finish(choice.part.pieces);
  choice.part.stop_string = choice.stream.stop_string();
  EndChoice(choice, EndOf(choice.stream, choice.parser));
  if (update.end == OutputEnd::kNone && number_) around_.dispatcher.CancelSequence(*number_, sequence_idx);
}

void GenerationJob::TakeText(Choice& choice, const std::string& text) {
  if (choice.parser) {
    choice.parser->Push(text, choice.part.pieces);
  } else {
    choice.part.text += text;
  }
}

void GenerationJob::EndChoice(Choice& choice, ChoiceEnd end) {
  choice.part.end = end;
  num_open_ -= 1;
}

void GenerationJob::OnStepEnd() {
  if (!exchange_) return;
  if (request_.stream) {
    WriteParts();
  } else if (num_open_ == 0) {
    Answer();
  }
}

void GenerationJob::BeginStream() {
  if (stream_begun_) return;
  stream_begun_ = true;
  HttpResponse head = StreamHead();
  head.body = format_->StreamBegin(facts_, static_cast<int64_t>(choices_.size()));
  exchange_->StartStream(std::move(head));
}

void GenerationJob::WriteParts() {
  std::string events;
  for (Choice& choice : choices_) {
    // Text that may still become a stop string or a tool call, or half a character, is held back, and its tokens too.
    const bool nothing_new = choice.part.text.empty() && choice.part.pieces.empty();
    if (nothing_new && choice.part.end == ChoiceEnd::kNone) continue;
    events += format_->StreamPart(facts_, choice.part);
    ChoicePart next;
    next.choice_idx = choice.part.choice_idx;
    next.text_offset = choice.part.text_offset + static_cast<int64_t>(choice.part.text.size());
    choice.part = std::move(next);
  }
  const bool last = num_open_ == 0;
  if (events.empty() && !last) return;
  if (last) events += format_->StreamEnd(facts_, request_.include_usage ? &usage_ : nullptr);
  BeginStream();
  since_write_ = Stopwatch();
  const auto self = shared_from_this();
  exchange_->Write(events);
  if (!last || !exchange_) return;  // the client may be cut by writing
  exchange_->EndStream();
  End("success");
}

void GenerationJob::Answer() {
  std::vector<ChoicePart> parts;
  for (Choice& choice : choices_) parts.push_back(std::move(choice.part));
  HttpResponse response;
  response.body = format_->Whole(facts_, parts, usage_);
  exchange_->Respond(std::move(response));
  End("success");
}

void GenerationJob::OnFailed(size_t, const HttpError& error) { Fail(error); }

void GenerationJob::Fail(const HttpError& error) {
  if (!exchange_) return;
  const auto self = shared_from_this();
  if (stream_begun_) {
    exchange_->Write(format_->StreamError(error));
    if (exchange_) exchange_->EndStream();
  } else {
    exchange_->Respond(format_->Error(error));
  }
  if (exchange_) End("error");
}

void GenerationJob::Tick() {
  if (!exchange_) return;
  if (deadline_.Expired()) {
    return Fail(
        {504, "timeout",
         absl::StrCat("the request has taken longer than ", absl::FormatDuration(request_.timeout), " (timeout)"),
         "timeout"});
  }
  if (request_.stream && since_write_.elapsed() >= kPingAfter) {
    BeginStream();
    since_write_ = Stopwatch();
    exchange_->Write(kPing);
  }
}

// The exchange has its answer, or nobody to give it to.
void GenerationJob::End(absl::string_view outcome) {
  const auto self = shared_from_this();
  const auto exchange = std::exchange(exchange_, nullptr);
  if (number_) around_.dispatcher.Cancel(*std::exchange(number_, std::nullopt));
  around_.metrics.OnEnd(outcome, since_start_.seconds(), usage_.completion_tokens);
  std::exchange(on_end_, nullptr)();
}

}  // namespace tokenferry

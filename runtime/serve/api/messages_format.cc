// Answers of /v1/messages, in Anthropic's form.
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "runtime/serve/api/answer.h"
#include "runtime/serve/http/compact_json.h"

namespace tokenferry {
namespace {

using Json = nlohmann::ordered_json;

// An event is named twice: in its line and in its data.
std::string Event(const Json& json) {
  return absl::StrCat("event: ", json["type"].get<std::string>(), "\ndata: ", CompactJson(json), "\n\n");
}

Json StopReason(ChoiceEnd end) {
  switch (end) {
    case ChoiceEnd::kNone:
      return nullptr;
    case ChoiceEnd::kStopToken:
      return "end_turn";
    case ChoiceEnd::kStopString:
      return "stop_sequence";
    case ChoiceEnd::kLength:
      return "max_tokens";
  }
  return nullptr;
}

Json StopSequence(const ChoicePart& part) {
  return part.end == ChoiceEnd::kStopString ? Json(part.stop_string) : Json(nullptr);
}

Json ErrorJson(const HttpError& error) {
  std::string type(error.type());
  if (type == "server_error") type = error.status == 503 ? "overloaded_error" : "api_error";
  if (error.status == 404) type = "not_found_error";
  const std::string where = error.param.empty() ? "" : absl::StrCat(" (", error.param, ")");
  return {{"type", "error"}, {"error", {{"type", std::move(type)}, {"message", error.message + where}}}};
}

Json MessageJson(const AnswerFacts& facts) {
  return {{"id", facts.id}, {"type", "message"}, {"role", "assistant"}, {"model", facts.model}};
}

// One choice, one block of text.
class MessagesAnswers final : public AnswerFormat {
 public:
  std::string Whole(const AnswerFacts& facts, absl::Span<const ChoicePart> choices, const Usage& usage) override {
    Json json = MessageJson(facts);
    json["content"] = Json::array({{{"type", "text"}, {"text", choices[0].text}}});
    json["stop_reason"] = StopReason(choices[0].end);
    json["stop_sequence"] = StopSequence(choices[0]);
    json["usage"] = {{"input_tokens", usage.prompt_tokens},
                     {"output_tokens", usage.completion_tokens},
                     {"cache_read_input_tokens", usage.cached_tokens}};
    return CompactJson(json);
  }

  std::string StreamBegin(const AnswerFacts& facts, int64_t) override {
    Json message = MessageJson(facts);
    message["content"] = Json::array();
    message["stop_reason"] = nullptr;
    message["stop_sequence"] = nullptr;
    message["usage"] = {{"input_tokens", facts.prompt_tokens}, {"output_tokens", 0}};
    return Event({{"type", "message_start"}, {"message", std::move(message)}}) +
           Event({{"type", "content_block_start"}, {"index", 0}, {"content_block", {{"type", "text"}, {"text", ""}}}});
  }

  std::string StreamPart(const AnswerFacts&, const ChoicePart& part) override {
    last_ = {{"stop_reason", StopReason(part.end)}, {"stop_sequence", StopSequence(part)}};
    if (part.text.empty()) return "";
    return Event(
        {{"type", "content_block_delta"}, {"index", 0}, {"delta", {{"type", "text_delta"}, {"text", part.text}}}});
  }

  std::string StreamEnd(const AnswerFacts&, const Usage* usage) override {
    const int64_t num_tokens = usage == nullptr ? 0 : usage->completion_tokens;
    return Event({{"type", "content_block_stop"}, {"index", 0}}) +
           Event({{"type", "message_delta"}, {"delta", last_}, {"usage", {{"output_tokens", num_tokens}}}}) +
           Event({{"type", "message_stop"}});
  }

  std::string StreamError(const HttpError& error) override { return Event(ErrorJson(error)); }

  HttpResponse Error(const HttpError& error) override {
    HttpResponse response = error.Response();
    response.body = CompactJson(ErrorJson(error));
    return response;
  }

 private:
  Json last_;  // why the choice has ended
};

}  // namespace

std::unique_ptr<AnswerFormat> MessagesFormat(Tokenizer) { return std::make_unique<MessagesAnswers>(); }

}  // namespace tokenferry

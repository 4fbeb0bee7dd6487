// Answers of /v1/messages, in Anthropic's form.
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "runtime/serve/api/answer.h"
#include "runtime/serve/http/compact_json.h"

namespace tokenferry {
namespace {

using Json = nlohmann::ordered_json;

// An event is named twice: in its line and in its data.
std::string NamedEvent(const Json& json) {
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
    case ChoiceEnd::kToolCalls:
      return "tool_use";
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

// A block without what will come of it.
Json EmptyBlock(const AnswerFacts& facts, const OutputPiece& piece) {
  switch (piece.kind) {
    case PieceKind::kReasoning:
      return {{"type", "thinking"}, {"thinking", ""}, {"signature", ""}};
    case PieceKind::kCall:
    case PieceKind::kArguments:
      return {{"type", "tool_use"},
              {"id", CallId("toolu_", facts, 0, piece.call_idx)},
              {"name", piece.text},
              {"input", Json::object()}};
    case PieceKind::kText:
      break;
  }
  return {{"type", "text"}, {"text", ""}};
}

Json Delta(const OutputPiece& piece) {
  switch (piece.kind) {
    case PieceKind::kReasoning:
      return {{"type", "thinking_delta"}, {"thinking", piece.text}};
    case PieceKind::kArguments:
      return {{"type", "input_json_delta"}, {"partial_json", piece.text}};
    case PieceKind::kCall:
    case PieceKind::kText:
      break;
  }
  return {{"type", "text_delta"}, {"text", piece.text}};
}

// Arguments that are no JSON object, as those of an answer that was cut, come as {"arguments": TEXT}.
Json InputOf(const std::string& arguments) {
  const std::optional<Json> input = ParseObject(arguments);
  return input ? *input : Json{{"arguments", arguments}};
}

Json ContentJson(const AnswerFacts& facts, const ChoicePart& choice) {
  Json content = Json::array();
  for (const OutputPiece& piece : choice.pieces) {
    if (piece.kind == PieceKind::kArguments) {
      content.back()["input"] = InputOf(piece.text);
      continue;
    }
    content.push_back(EmptyBlock(facts, piece));
    if (piece.kind == PieceKind::kText) content.back()["text"] = piece.text;
    if (piece.kind == PieceKind::kReasoning) content.back()["thinking"] = piece.text;
  }
  if (content.empty()) content.push_back({{"type", "text"}, {"text", ""}});
  return content;
}

// One choice, whose pieces are blocks.
class MessagesAnswers final : public AnswerFormat {
 public:
  std::string Whole(const AnswerFacts& facts, absl::Span<const ChoicePart> choices, const Usage& usage) override {
    Json json = MessageJson(facts);
    json["content"] = ContentJson(facts, choices[0]);
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
    return NamedEvent({{"type", "message_start"}, {"message", std::move(message)}});
  }

  std::string StreamPart(const AnswerFacts& facts, const ChoicePart& part) override {
    last_ = {{"stop_reason", StopReason(part.end)}, {"stop_sequence", StopSequence(part)}};
    std::string events;
    for (const OutputPiece& piece : part.pieces) {
      const bool goes_on =
          open_ && piece.kind != PieceKind::kCall && (piece.kind == PieceKind::kArguments || piece.kind == *open_);
      if (!goes_on) events += BeginBlock(facts, piece);
      if (piece.kind == PieceKind::kCall) continue;
      events += NamedEvent({{"type", "content_block_delta"}, {"index", block_idx_}, {"delta", Delta(piece)}});
    }
    return events;
  }

  std::string StreamEnd(const AnswerFacts& facts, const Usage* usage) override {
    const int64_t num_tokens = usage == nullptr ? 0 : usage->completion_tokens;
    const std::string empty = open_ ? "" : BeginBlock(facts, {});
    return empty + EndBlock() +
           NamedEvent({{"type", "message_delta"}, {"delta", last_}, {"usage", {{"output_tokens", num_tokens}}}}) +
           NamedEvent({{"type", "message_stop"}});
  }

  std::string StreamError(const HttpError& error) override { return NamedEvent(ErrorJson(error)); }

  HttpResponse Error(const HttpError& error) override {
    HttpResponse response = error.Response();
    response.body = CompactJson(ErrorJson(error));
    return response;
  }

 private:
  std::string BeginBlock(const AnswerFacts& facts, const OutputPiece& first) {
    const std::string end = open_ ? EndBlock() : "";
    block_idx_ += 1;
    open_ = first.kind;
    return end +
           NamedEvent(
               {{"type", "content_block_start"}, {"index", block_idx_}, {"content_block", EmptyBlock(facts, first)}});
  }
  std::string EndBlock() const { return NamedEvent({{"type", "content_block_stop"}, {"index", block_idx_}}); }

  int64_t block_idx_ = -1;         // of the block that is open
  std::optional<PieceKind> open_;  // what has begun it
  Json last_;                      // why the choice has ended
};

}  // namespace

std::unique_ptr<AnswerFormat> MessagesFormat(Tokenizer) { return std::make_unique<MessagesAnswers>(); }

}  // namespace tokenferry

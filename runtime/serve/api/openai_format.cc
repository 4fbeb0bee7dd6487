// Answers of /v1/completions and /v1/chat/completions.
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "runtime/serve/api/answer.h"
#include "runtime/serve/http/compact_json.h"

namespace tokenferry {
namespace {

using Json = nlohmann::ordered_json;

std::string Event(const Json& json) { return absl::StrCat("data: ", CompactJson(json), "\n\n"); }

Json FinishReasonOf(ChoiceEnd end) {
  switch (end) {
    case ChoiceEnd::kNone:
      return nullptr;
    case ChoiceEnd::kStopToken:
    case ChoiceEnd::kStopString:
      return "stop";
    case ChoiceEnd::kLength:
      return "length";
    case ChoiceEnd::kToolCalls:
      return "tool_calls";
  }
  return nullptr;
}

Json UsageJson(const Usage& usage) {
  return {{"prompt_tokens", usage.prompt_tokens},
          {"completion_tokens", usage.completion_tokens},
          {"total_tokens", usage.prompt_tokens + usage.completion_tokens},
          {"prompt_tokens_details", {{"cached_tokens", usage.cached_tokens}}}};
}

// [token][MoE layer][top_k]
Json RoutingJson(const AnswerFacts& facts, const std::vector<AnswerToken>& tokens) {
  Json routing = Json::array();
  for (const AnswerToken& token : tokens) {
    Json layers = Json::array();
    if (static_cast<int64_t>(token.expert_idx.size()) == facts.num_moe_layers * facts.top_k) {
      for (int64_t layer = 0; layer < facts.num_moe_layers; ++layer) {
        const auto begin = token.expert_idx.begin() + layer * facts.top_k;
        layers.push_back(std::vector<int32_t>(begin, begin + facts.top_k));
      }
    }
    routing.push_back(std::move(layers));
  }
  return routing;
}

Json Skeleton(const AnswerFacts& facts, const char* object) {
  return {{"id", facts.id}, {"object", object}, {"created", facts.created}, {"model", facts.model}};
}

std::string Concatenated(const ChoicePart& part, PieceKind kind) {
  std::string text;
  for (const OutputPiece& piece : part.pieces) {
    if (piece.kind == kind) text += piece.text;
  }
  return text;
}

// Whole calls, or what is new of them: a stream numbers them, and tells id and name of a call once.
enum class CallForm : uint8_t { kWhole, kDelta };
Json ToolCallsJson(const AnswerFacts& facts, const ChoicePart& part, CallForm form) {
  Json calls = Json::array();
  int64_t last_idx = -1;
  for (const OutputPiece& piece : part.pieces) {
    if (piece.call_idx < 0) continue;
    if (piece.call_idx != last_idx) {
      Json call = form == CallForm::kDelta ? Json{{"index", piece.call_idx}} : Json::object();
      if (piece.kind == PieceKind::kCall) {
        call["id"] = CallId("call_", facts, part.choice_idx, piece.call_idx);
        call["type"] = "function";
        call["function"]["name"] = piece.text;
      }
      call["function"]["arguments"] = "";
      calls.push_back(std::move(call));
      last_idx = piece.call_idx;
    }
    if (piece.kind != PieceKind::kArguments) continue;
    calls.back()["function"]["arguments"].get_ref<std::string&>() += piece.text;
  }
  return calls;
}

// Two names are in use.
void AddReasoning(const ChoicePart& part, Json& message) {
  const std::string reasoning = Concatenated(part, PieceKind::kReasoning);
  if (reasoning.empty()) return;
  message["reasoning_content"] = reasoning;
  message["reasoning"] = reasoning;
}

Json MessageJson(const AnswerFacts& facts, const ChoicePart& part) {
  Json message = {{"role", "assistant"}, {"content", Concatenated(part, PieceKind::kText)}};
  AddReasoning(part, message);
  Json calls = ToolCallsJson(facts, part, CallForm::kWhole);
  if (calls.empty()) return message;
  if (message["content"] == "") message["content"] = nullptr;
  message["tool_calls"] = std::move(calls);
  return message;
}

Json DeltaJson(const AnswerFacts& facts, const ChoicePart& part) {
  Json delta = Json::object();
  AddReasoning(part, delta);
  if (std::string text = Concatenated(part, PieceKind::kText); !text.empty()) delta["content"] = std::move(text);
  if (Json calls = ToolCallsJson(facts, part, CallForm::kDelta); !calls.empty()) delta["tool_calls"] = std::move(calls);
  return delta;
}

class OpenAiFormat : public AnswerFormat {
 public:
  explicit OpenAiFormat(Tokenizer tokenizer) : tokenizer_(std::move(tokenizer)) {}

  std::string Whole(const AnswerFacts& facts, absl::Span<const ChoicePart> choices, const Usage& usage) override {
    Json json = Skeleton(facts, WholeObject());
    json["choices"] = Json::array();
    for (const ChoicePart& part : choices) json["choices"].push_back(WholeChoice(facts, part));
    json["usage"] = UsageJson(usage);
    json["seed"] = facts.seed;
    return CompactJson(json);
  }

  std::string StreamEnd(const AnswerFacts& facts, const Usage* usage) override {
    std::string events;
    if (usage != nullptr) {
      Json json = Skeleton(facts, PartObject());
      json["choices"] = Json::array();
      json["usage"] = UsageJson(*usage);
      events = Event(json);
    }
    return events + "data: [DONE]\n\n";
  }

  std::string StreamError(const HttpError& error) override {
    return absl::StrCat("data: ", error.Json(), "\n\ndata: [DONE]\n\n");
  }

 protected:
  virtual const char* WholeObject() const = 0;
  virtual const char* PartObject() const = 0;
  virtual Json WholeChoice(const AnswerFacts& facts, const ChoicePart& part) const = 0;

  std::string TokenText(int32_t token) const { return std::string(tokenizer_.TokenBytes(token)); }

 private:
  Tokenizer tokenizer_;
};

class CompletionAnswers final : public OpenAiFormat {
 public:
  using OpenAiFormat::OpenAiFormat;

  std::string StreamBegin(const AnswerFacts&, int64_t) override { return ""; }

  std::string StreamPart(const AnswerFacts& facts, const ChoicePart& part) override {
    Json json = Skeleton(facts, PartObject());
    json["choices"] = Json::array({WholeChoice(facts, part)});
    if (part.end != ChoiceEnd::kNone) json["seed"] = facts.seed;
    return Event(json);
  }

 protected:
  const char* WholeObject() const override { return "text_completion"; }
  const char* PartObject() const override { return "text_completion"; }

  Json WholeChoice(const AnswerFacts& facts, const ChoicePart& part) const override {
    Json choice = {{"index", part.choice_idx},
                   {"text", part.text},
                   {"logprobs", nullptr},
                   {"finish_reason", FinishReasonOf(part.end)}};
    if (facts.num_logprobs >= 0) choice["logprobs"] = Logprobs(part);
    if (facts.routing) choice["routing"] = RoutingJson(facts, part.tokens);
    return choice;
  }

 private:
  // Four parallel lists.
  Json Logprobs(const ChoicePart& part) const {
    Json tokens = Json::array(), logprobs = Json::array(), tops = Json::array(), offsets = Json::array();
    int64_t offset = part.text_offset;
    for (const AnswerToken& token : part.tokens) {
      const std::string text = TokenText(token.reported.token);
      tokens.push_back(text);
      offsets.push_back(offset);
      offset += static_cast<int64_t>(text.size());
      logprobs.push_back(token.has_logprob ? Json(token.reported.logprob) : Json(nullptr));
      Json top = Json::object();
      for (const ReportedToken& t : token.top) top[TokenText(t.token)] = t.logprob;
      tops.push_back(token.has_logprob ? std::move(top) : Json(nullptr));
    }
    return {{"tokens", std::move(tokens)},
            {"token_logprobs", std::move(logprobs)},
            {"top_logprobs", std::move(tops)},
            {"text_offset", std::move(offsets)}};
  }
};

class ChatAnswers final : public OpenAiFormat {
 public:
  using OpenAiFormat::OpenAiFormat;

  std::string StreamBegin(const AnswerFacts& facts, int64_t num_choices) override {
    std::string events;
    for (int64_t i = 0; i < num_choices; ++i) {
      events += Event(Part(facts, i, {{"role", "assistant"}, {"content", ""}}, ChoiceEnd::kNone));
    }
    return events;
  }

  std::string StreamPart(const AnswerFacts& facts, const ChoicePart& part) override {
    Json json = Part(facts, part.choice_idx, DeltaJson(facts, part), part.end);
    Json& choice = json["choices"][0];
    if (facts.num_logprobs >= 0) choice["logprobs"] = {{"content", Logprobs(part)}};
    if (facts.routing) choice["routing"] = RoutingJson(facts, part.tokens);
    if (part.end != ChoiceEnd::kNone) json["seed"] = facts.seed;
    return Event(json);
  }

 protected:
  const char* WholeObject() const override { return "chat.completion"; }
  const char* PartObject() const override { return "chat.completion.chunk"; }

  Json WholeChoice(const AnswerFacts& facts, const ChoicePart& part) const override {
    Json choice = {{"index", part.choice_idx},
                   {"message", MessageJson(facts, part)},
                   {"logprobs", nullptr},
                   {"finish_reason", FinishReasonOf(part.end)}};
    if (facts.num_logprobs >= 0) choice["logprobs"] = {{"content", Logprobs(part)}};
    if (facts.routing) choice["routing"] = RoutingJson(facts, part.tokens);
    return choice;
  }

 private:
  Json Part(const AnswerFacts& facts, int64_t choice_idx, Json delta, ChoiceEnd end) const {
    Json json = Skeleton(facts, PartObject());
    Json choice = {{"index", choice_idx}, {"delta", std::move(delta)}, {"finish_reason", FinishReasonOf(end)}};
    json["choices"] = Json::array({std::move(choice)});
    return json;
  }

  Json TokenJson(const ReportedToken& token) const {
    const std::string text = TokenText(token.token);
    Json bytes = Json::array();
    for (const char c : text) bytes.push_back(static_cast<unsigned char>(c));
    return {{"token", text}, {"logprob", token.logprob}, {"bytes", std::move(bytes)}};
  }

  Json Logprobs(const ChoicePart& part) const {
    Json content = Json::array();
    for (const AnswerToken& token : part.tokens) {
      Json entry = TokenJson(token.reported);
      entry["top_logprobs"] = Json::array();
      for (const ReportedToken& t : token.top) entry["top_logprobs"].push_back(TokenJson(t));
      content.push_back(std::move(entry));
    }
    return content;
  }
};

}  // namespace

std::unique_ptr<AnswerFormat> CompletionFormat(Tokenizer tokenizer) {
  return std::make_unique<CompletionAnswers>(std::move(tokenizer));
}

std::unique_ptr<AnswerFormat> ChatFormat(Tokenizer tokenizer) {
  return std::make_unique<ChatAnswers>(std::move(tokenizer));
}

}  // namespace tokenferry

// POST /v1/messages: Anthropic's form of a conversation, made into the one that chat templates know.
#include <algorithm>
#include <limits>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "runtime/serve/api/api_status.h"
#include "runtime/serve/api/chat_prompt.h"
#include "runtime/serve/api/generation_request.h"
#include "runtime/serve/api/grammar_fields.h"
#include "runtime/serve/http/compact_json.h"

namespace tokenferry {
namespace {

using Json = nlohmann::ordered_json;  // templates print objects with the keys in their order

bool IsBlock(const Json& block, absl::string_view type) {
  return block.is_object() && block.contains("type") && block["type"].is_string() &&
         block["type"].get_ref<const std::string&>() == type;
}

// A member that is a string; empty where there is none.
absl::StatusOr<std::string> StringOf(const Json& object, const char* key, absl::string_view param) {
  const auto found = object.find(key);
  if (found == object.end()) return std::string();
  if (!found->is_string()) return FieldError(param, absl::StrCat("has a block whose ", key, " is not a string"));
  return found->get<std::string>();
}

// A text, or a list of text blocks: as one text.
absl::StatusOr<std::string> TextOfBlocks(const Json& content, absl::string_view param) {
  if (content.is_string()) return content.get<std::string>();
  if (!content.is_array()) return FieldError(param, "must be a text or a list of blocks");
  std::string text;
  for (const Json& block : content) {
    if (!IsBlock(block, "text") || !block.contains("text") || !block["text"].is_string()) {
      return FieldError(param, "has a block that is not {\"type\": \"text\", \"text\": ..}; only text can be read");
    }
    absl::StrAppend(&text, text.empty() ? "" : "\n", block["text"].get<std::string>());
  }
  return text;
}

absl::StatusOr<Json> ConvertToolResult(const Json& block, absl::string_view param) {
  TF_ASSIGN_OR_RETURN(std::string id, StringOf(block, "tool_use_id", param));
  const auto content = block.find("content");
  std::string text;
  if (content != block.end()) {
    TF_ASSIGN_OR_RETURN(text, TextOfBlocks(*content, param));
  }
  return Json{{"role", "tool"}, {"tool_call_id", std::move(id)}, {"content", std::move(text)}};
}

absl::StatusOr<Json> ConvertToolUse(const Json& block, absl::string_view param) {
  TF_ASSIGN_OR_RETURN(std::string id, StringOf(block, "id", param));
  TF_ASSIGN_OR_RETURN(std::string name, StringOf(block, "name", param));
  const auto input = block.find("input");
  if (input != block.end() && !input->is_object()) {
    return FieldError(param, "has a block whose input is not an object");
  }
  Json function = {{"name", std::move(name)}, {"arguments", input == block.end() ? Json::object() : *input}};
  return Json{{"id", std::move(id)}, {"type", "function"}, {"function", std::move(function)}};
}

// One message becomes several where it answers tools: each answer is a message of the role "tool".
absl::Status AddMessage(const Json& message, Json* out) {
  constexpr char kParam[] = "messages";
  if (!message.is_object() || !message.contains("role") || !message.contains("content")) {
    return FieldError(kParam, "must be a list of objects with role and content");
  }
  const Json& role = message["role"];
  const Json& content = message["content"];
  if (role != "user" && role != "assistant") return FieldError(kParam, "the role must be user or assistant");
  if (!content.is_array()) {
    TF_ASSIGN_OR_RETURN(std::string text, TextOfBlocks(content, kParam));
    out->push_back({{"role", role}, {"content", std::move(text)}});
    return absl::OkStatus();
  }
  Json text_blocks = Json::array(), calls = Json::array();
  std::string thinking;
  for (const Json& block : content) {
    if (IsBlock(block, "tool_result")) {
      TF_ASSIGN_OR_RETURN(Json answer, ConvertToolResult(block, kParam));
      out->push_back(std::move(answer));
    } else if (IsBlock(block, "tool_use")) {
      TF_ASSIGN_OR_RETURN(Json call, ConvertToolUse(block, kParam));
      calls.push_back(std::move(call));
    } else if (IsBlock(block, "thinking")) {
      TF_ASSIGN_OR_RETURN(const std::string part, StringOf(block, "thinking", kParam));
      thinking += part;
    } else if (!IsBlock(block, "redacted_thinking")) {
      text_blocks.push_back(block);
    }
  }
  TF_ASSIGN_OR_RETURN(std::string text, TextOfBlocks(text_blocks, kParam));
  if (text_blocks.empty() && calls.empty()) return absl::OkStatus();
  Json converted = {{"role", role}, {"content", std::move(text)}};
  if (!thinking.empty()) converted["reasoning_content"] = std::move(thinking);
  if (!calls.empty()) converted["tool_calls"] = std::move(calls);
  out->push_back(std::move(converted));
  return absl::OkStatus();
}

absl::StatusOr<Json> ConvertTools(const Json& tools) {
  if (!tools.is_array()) return FieldError("tools", "must be a list of objects");
  Json converted = Json::array();
  for (const Json& tool : tools) {
    if (!tool.is_object() || !tool.contains("name") || !tool["name"].is_string()) {
      return FieldError("tools", "must be a list of objects with a name");
    }
    Json function = {{"name", tool["name"]}};
    if (tool.contains("description")) function["description"] = tool["description"];
    function["parameters"] = tool.contains("input_schema") ? tool["input_schema"] : Json::object();
    converted.push_back({{"type", "function"}, {"function", std::move(function)}});
  }
  return converted;
}

std::string TypeOf(const Json& object) {
  const auto type = object.is_object() ? object.find("type") : object.end();
  return type != object.end() && type->is_string() ? type->get<std::string>() : "";
}

// {"type": "auto", "none", "any" or "tool", "name": .., "disable_parallel_tool_use": ..}
absl::Status ConvertToolChoice(const Json& choice, Json* out) {
  const std::string type = choice == Json::object() ? "auto" : TypeOf(choice);
  if (type == "auto" || type == "none") {
    (*out)["tool_choice"] = type;
  } else if (type == "any") {
    (*out)["tool_choice"] = "required";
  } else if (type == "tool") {
    TF_ASSIGN_OR_RETURN(std::string name, StringOf(choice, "name", "tool_choice"));
    (*out)["tool_choice"] = {{"type", "function"}, {"function", {{"name", std::move(name)}}}};
  } else {
    return FieldError("tool_choice", "the type must be auto, none, any or tool");
  }
  const auto single = choice.find("disable_parallel_tool_use");
  if (single == choice.end()) return absl::OkStatus();
  if (!single->is_boolean()) return FieldError("tool_choice.disable_parallel_tool_use", "must be true or false");
  (*out)["parallel_tool_calls"] = !single->get<bool>();
  return absl::OkStatus();
}

// {"type": "enabled" or "disabled", ..} as the variables by which templates know it: Qwen's and DeepSeek's.
absl::Status ConvertThinking(const Json& thinking, Json* variables) {
  const std::string type = TypeOf(thinking);
  if (type == "adaptive") return absl::OkStatus();  // as the model likes
  if (type != "enabled" && type != "disabled") {
    return FieldError("thinking", "the type must be enabled, disabled or adaptive");
  }
  if (!variables->is_null() && !variables->is_object()) return absl::OkStatus();  // refused where it is read
  for (const char* name : {"enable_thinking", "thinking"}) {
    if (!variables->contains(name)) (*variables)[name] = type == "enabled";
  }
  return absl::OkStatus();
}

// The body as chat templates would have it.
absl::StatusOr<std::string> ConvertConversation(const Json& body) {
  Json messages = Json::array();
  if (body.contains("system") && !body["system"].is_null()) {
    TF_ASSIGN_OR_RETURN(std::string system, TextOfBlocks(body["system"], "system"));
    messages.push_back({{"role", "system"}, {"content", std::move(system)}});
  }
  if (!body.contains("messages") || !body["messages"].is_array() || body["messages"].empty()) {
    return FieldError("messages", "must be a list of messages, at least one");
  }
  for (const Json& message : body["messages"]) TF_RETURN_IF_ERROR(AddMessage(message, &messages));
  Json converted = {{"messages", std::move(messages)}};
  if (body.contains("tools") && !body["tools"].is_null()) {
    TF_ASSIGN_OR_RETURN(converted["tools"], ConvertTools(body["tools"]));
  }
  if (body.contains("chat_template_kwargs")) converted["chat_template_kwargs"] = body["chat_template_kwargs"];
  if (body.contains("thinking") && !body["thinking"].is_null()) {
    TF_RETURN_IF_ERROR(ConvertThinking(body["thinking"], &converted["chat_template_kwargs"]));
  }
  if (body.contains("tool_choice") && !body["tool_choice"].is_null()) {
    TF_RETURN_IF_ERROR(ConvertToolChoice(body["tool_choice"], &converted));
  }
  return CompactJson(converted);
}

absl::Status ReadPrompt(BodyFields& fields, const std::string& body, const ServedModel& model, const ApiLimits& limits,
                        GenerationRequest* out) {
  for (const char* known : {"system", "messages", "tools", "chat_template_kwargs", "thinking", "tool_choice"}) {
    TF_RETURN_IF_ERROR(fields.Node(known).status());
  }
  // Within limits and without a key twice, as BodyFields has seen.
  TF_ASSIGN_OR_RETURN(const std::string converted, ConvertConversation(Json::parse(body)));
  TF_ASSIGN_OR_RETURN(BodyFields conversation, BodyFields::Parse(converted, limits.max_json_depth + 4));
  TF_RETURN_IF_ERROR(ReadChatPrompt(conversation, converted, model, out));
  return ReadGrammar(conversation, converted, model, out);
}

}  // namespace

absl::StatusOr<GenerationRequest> ParseMessagesRequest(std::string body, const ServedModel& model,
                                                       const ApiLimits& limits, FieldTable* asked) {
  TF_ASSIGN_OR_RETURN(BodyFields fields, BodyFields::Parse(body, limits.max_json_depth, asked));
  GenerationRequest request;
  TF_RETURN_IF_ERROR(ReadPrompt(fields, body, model, limits, &request));
  TF_ASSIGN_OR_RETURN(const auto max_tokens, fields.Integer("max_tokens", 1, std::numeric_limits<int32_t>::max()));
  if (!max_tokens) return FieldError("max_tokens", "is missing");
  const RouteFields route{max_tokens, "max_tokens", 0, "stop_sequences"};
  TF_RETURN_IF_ERROR(ReadSharedFields(fields, model, limits, route, &request));
  if (request.num_choices != 1) return FieldError("n", "is not of this route");
  if (request.routing) return FieldError("routing", "is not of this route: see /v1/chat/completions");
  if (asked != nullptr) {  // what is refused is no field of the route
    for (const char* name : {"n", "routing"}) asked->erase(name);
  }
  request.include_usage = true;
  return request;
}

absl::StatusOr<int64_t> CountMessagesTokens(std::string body, const ServedModel& model, const ApiLimits& limits,
                                            FieldTable* asked) {
  TF_ASSIGN_OR_RETURN(BodyFields fields, BodyFields::Parse(body, limits.max_json_depth, asked));
  GenerationRequest request;
  TF_RETURN_IF_ERROR(ReadPrompt(fields, body, model, limits, &request));
  return static_cast<int64_t>(request.prompts[0].ids.size());
}

}  // namespace tokenferry

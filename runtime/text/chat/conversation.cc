#include "runtime/text/chat/conversation.h"

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/algorithm/container.h"
#include "absl/strings/str_join.h"
#include "core/io/foreign_text.h"
#include "runtime/text/jinja/value_json.h"

namespace tokenferry {
namespace {

constexpr JsonLimits kLimits = {.max_bytes = int64_t{64} << 20};

bool IsList(const JsonNode& node) { return node.Elements().ok(); }

// The last member `key` of an object, null too.
std::optional<JsonNode> Member(const std::vector<std::pair<std::string, JsonNode>>& members, absl::string_view key) {
  for (const auto& [name, value] : members) {
    if (name == key) return value;
  }
  return std::nullopt;
}

absl::Status CheckParts(const JsonNode& content) {
  TF_ASSIGN_OR_RETURN(const std::vector<JsonNode> parts, content.Elements());
  for (const JsonNode& part : parts) {
    TF_ASSIGN_OR_RETURN(const JsonNode type_node, part.Child("type"));
    TF_ASSIGN_OR_RETURN(const std::string type, type_node.String());
    if (type != "text") {
      return type_node.NotSupported(absl::StrCat("content of type '", Excerpt(type), "'; only text can be read"));
    }
    TF_ASSIGN_OR_RETURN(const JsonNode text, part.Child("text"));
    TF_RETURN_IF_ERROR(text.String().status());
  }
  return absl::OkStatus();
}

absl::Status CheckMessage(const JsonNode& message) {
  TF_ASSIGN_OR_RETURN(const auto members, message.Members());
  TF_ASSIGN_OR_RETURN(const JsonNode role_node, message.Child("role"));
  TF_ASSIGN_OR_RETURN(const std::string role, role_node.String());
  if (!absl::c_linear_search(ChatRoles(), role)) {
    return role_node.Error(
        absl::StrCat("unknown role '", Excerpt(role), "'; known: ", absl::StrJoin(ChatRoles(), ", ")));
  }
  TF_ASSIGN_OR_RETURN(const std::optional<JsonNode> tool_calls, message.Optional("tool_calls"));
  if (tool_calls) {
    TF_ASSIGN_OR_RETURN(const std::vector<JsonNode> calls, tool_calls->Elements());
    for (const JsonNode& call : calls) TF_RETURN_IF_ERROR(call.Members().status());
  }
  const std::optional<JsonNode> content = Member(members, "content");
  if (!content || content->is_null()) {
    if (tool_calls && role == "assistant") return absl::OkStatus();
    return message.Error("lacks \"content\"");
  }
  if (role == "tool" || content->String().ok()) return absl::OkStatus();
  if (IsList(*content)) return CheckParts(*content);
  return content->Error(absl::StrCat("must be a text or a list of parts, not ", content->Shown()));
}

JinjaValue JoinedParts(const std::vector<JinjaValue>& parts) {
  TaggedText text;
  for (size_t i = 0; i < parts.size(); ++i) {
    if (i > 0) text.Append("\n", TextOrigin::kMessage);
    const JinjaValue part = parts[i].Get("text");
    if (part.text() != nullptr) text.Append(*part.text());
  }
  return JinjaValue::Text(std::move(text));
}

bool AllText(const JinjaValue& content) {
  if (content.sequence() == nullptr) return false;
  return absl::c_all_of(content.sequence()->items, [](const JinjaValue& part) {
    const JinjaValue type = part.Get("type");
    return type.text() != nullptr && type.text()->text() == "text";
  });
}

JinjaValue WithObjectArguments(const JinjaValue& call) {
  const JinjaValue function = call.Get("function");
  const JinjaValue arguments = function.Get("arguments");
  if (arguments.text() == nullptr) return call;
  absl::StatusOr<JinjaValue> parsed = ParseJinjaJson(arguments.text()->text(), "arguments", kLimits);
  if (!parsed.ok() || parsed->dict() == nullptr) return call;
  JinjaDict new_function = *function.dict();
  new_function.Set("arguments", *std::move(parsed));
  JinjaDict new_call = *call.dict();
  new_call.Set("function", JinjaValue::Dict(std::move(new_function)));
  return JinjaValue::Dict(std::move(new_call));
}

absl::Status CheckKeys(const JsonNode& root) {
  static constexpr absl::string_view kKeys[] = {"messages", "tools", "documents", "add_generation_prompt",
                                                "chat_template_kwargs"};
  TF_ASSIGN_OR_RETURN(const auto members, root.Members());
  for (const auto& [key, value] : members) {
    if (absl::c_find(kKeys, key) == std::end(kKeys)) {
      return value.Error(absl::StrCat("unknown key; known: ", absl::StrJoin(kKeys, ", ")));
    }
  }
  for (const absl::string_view key : {"tools", "documents"}) {
    TF_ASSIGN_OR_RETURN(const std::optional<JsonNode> list, root.Optional(key));
    if (!list) continue;
    TF_ASSIGN_OR_RETURN(const std::vector<JsonNode> elements, list->Elements());
    for (const JsonNode& element : elements) TF_RETURN_IF_ERROR(element.Members().status());
  }
  TF_ASSIGN_OR_RETURN(const std::optional<JsonNode> variables, root.Optional("chat_template_kwargs"));
  return variables ? variables->Members().status() : absl::OkStatus();
}

}  // namespace

absl::Status CheckMessages(const JsonNode& messages) {
  TF_ASSIGN_OR_RETURN(const std::vector<JsonNode> elements, messages.Elements());
  if (elements.empty()) return messages.Error("has no messages");
  for (const JsonNode& message : elements) TF_RETURN_IF_ERROR(CheckMessage(message));
  return absl::OkStatus();
}

JinjaValue NormalizeMessages(const JinjaValue& messages) {
  if (messages.sequence() == nullptr) return messages;
  std::vector<JinjaValue> out;
  for (const JinjaValue& message : messages.sequence()->items) {
    if (message.dict() == nullptr) {
      out.push_back(message);
      continue;
    }
    JinjaDict normal = *message.dict();
    if (const JinjaValue content = message.Get("content"); AllText(content)) {
      normal.Set("content", JoinedParts(content.sequence()->items));
    }
    if (const JinjaValue calls = message.Get("tool_calls"); calls.sequence() != nullptr) {
      std::vector<JinjaValue> new_calls;
      for (const JinjaValue& call : calls.sequence()->items) new_calls.push_back(WithObjectArguments(call));
      normal.Set("tool_calls", JinjaValue::List(std::move(new_calls)));
    }
    const JinjaValue reasoning = message.Get("reasoning");
    if (reasoning.text() != nullptr && message.Get("reasoning_content").text() == nullptr) {
      normal.Set("reasoning_content", reasoning);
    }
    out.push_back(JinjaValue::Dict(std::move(normal)));
  }
  return JinjaValue::List(std::move(out));
}

absl::StatusOr<ChatInput> ReadConversation(absl::string_view json, absl::string_view name) {
  TF_ASSIGN_OR_RETURN(const JsonDocument document, JsonDocument::Parse(std::string(json), name, kLimits));
  const JinjaValue value = JinjaFromJson(json);  // keeps the order of keys
  ChatInput input;
  const JsonNode root = document.root();
  if (IsList(root)) {
    TF_RETURN_IF_ERROR(CheckMessages(root));
    input.messages = NormalizeMessages(value);
    return input;
  }
  TF_RETURN_IF_ERROR(CheckKeys(root));
  TF_ASSIGN_OR_RETURN(const JsonNode messages, root.Child("messages"));
  TF_RETURN_IF_ERROR(CheckMessages(messages));
  TF_ASSIGN_OR_RETURN(const bool next_turn, root.BoolOr("add_generation_prompt", true));
  input.messages = NormalizeMessages(value.Get("messages"));
  input.tools = value.Get("tools");
  input.documents = value.Get("documents");
  input.variables = value.Get("chat_template_kwargs");
  input.next_turn = next_turn ? NextTurn::kAssistant : NextTurn::kNone;
  return input;
}

}  // namespace tokenferry

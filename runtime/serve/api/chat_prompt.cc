#include "runtime/serve/api/chat_prompt.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "runtime/serve/api/api_status.h"
#include "runtime/text/chat/conversation.h"
#include "runtime/text/chat/local_time.h"
#include "runtime/text/jinja/value_json.h"

namespace tokenferry {
namespace {

// An error of text that came with the request: about `param`, whatever has found it.
absl::Status AboutField(absl::string_view param, const absl::Status& status) {
  return status.ok() ? status : FieldError(param, status.message());
}

absl::Status CheckObjects(BodyFields& fields, absl::string_view name) {
  TF_ASSIGN_OR_RETURN(const auto node, fields.Node(name));
  if (!node) return absl::OkStatus();
  const auto is_object = [](const nlohmann::json& element) { return element.is_object(); };
  if (node->value().is_array() && std::all_of(node->value().begin(), node->value().end(), is_object)) {
    return absl::OkStatus();
  }
  return FieldError(name, "must be a list of objects");
}

absl::StatusOr<ChatInput> ReadConversationOf(BodyFields& fields, absl::string_view body) {
  TF_ASSIGN_OR_RETURN(const auto messages, fields.Node("messages"));
  if (!messages) return FieldError("messages", "is missing");
  TF_RETURN_IF_ERROR(AboutField("messages", CheckMessages(*messages)));
  TF_RETURN_IF_ERROR(CheckObjects(fields, "tools"));
  TF_RETURN_IF_ERROR(CheckObjects(fields, "documents"));
  TF_ASSIGN_OR_RETURN(const auto variables, fields.Node("chat_template_kwargs"));
  if (variables && !variables->value().is_object()) return FieldError("chat_template_kwargs", "must be an object");
  TF_ASSIGN_OR_RETURN(const bool answer, fields.Switch("add_generation_prompt", true));
  TF_ASSIGN_OR_RETURN(const auto choice, fields.Node("tool_choice"));
  // The same text once more, with the order of its keys: templates print tools as they were written.
  const JinjaValue value = JinjaFromJson(body);
  ChatInput input;
  input.messages = NormalizeMessages(value.Get("messages"));
  if (!choice || choice->value() != "none") input.tools = value.Get("tools");
  input.documents = value.Get("documents");
  input.variables = value.Get("chat_template_kwargs");
  input.next_turn = answer ? NextTurn::kAssistant : NextTurn::kNone;
  input.now = LocalNow();
  return input;
}

// What the prompt ends with, as its template has written it.
bool EndsWithWord(const TaggedText& prompt, absl::string_view word) {
  const absl::string_view text = absl::StripTrailingAsciiWhitespace(prompt.text());
  return absl::EndsWith(text, word) && prompt.IsAll(TextOrigin::kModel, text.size() - word.size(), text.size());
}

Thinking ThinkingAfter(const TaggedText& prompt, const ServedModel& model) {
  if (!model.thinks || EndsWithWord(prompt, "</think>")) return Thinking::kNever;
  return EndsWithWord(prompt, "<think>") ? Thinking::kHasBegun : Thinking::kMayBegin;
}

}  // namespace

absl::Status ReadChatPrompt(BodyFields& fields, absl::string_view body, const ServedModel& model,
                            GenerationRequest* out) {
  if (!model.chat_template) {
    return ToStatus({400, "no_chat_template",
                     "the model has no chat template: use /v1/completions, or start serve with --chat-template", ""});
  }
  TF_ASSIGN_OR_RETURN(const ChatInput conversation, ReadConversationOf(fields, body));
  const absl::StatusOr<TaggedText> text = model.chat_template->Render(conversation);
  TF_RETURN_IF_ERROR(AboutField("messages", text.status()));
  out->prompts.push_back({model.tokenizer.Encode(*text), text->text()});
  if (out->prompts.back().ids.empty()) return FieldError("messages", "the chat template makes no text of them");
  TF_ASSIGN_OR_RETURN(const bool parallel, fields.Switch("parallel_tool_calls", true));
  out->output = {.tools = conversation.tools.Truthy() ? model.tool_format : nullptr,
                 .thinking = ThinkingAfter(*text, model),
                 .calls = parallel ? CallCount::kAny : CallCount::kOne};
  return absl::OkStatus();
}

}  // namespace tokenferry

// POST /v1/chat/completions: a conversation, which the model's chat template makes a prompt of.
#include <algorithm>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "runtime/serve/api/api_status.h"
#include "runtime/serve/api/generation_request.h"
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

// What would change the answer and is not done must be said.
absl::Status RefuseUnsupported(BodyFields& fields) {
  TF_ASSIGN_OR_RETURN(const auto choice, fields.Node("tool_choice"));
  if (choice && choice->value() != "auto" && choice->value() != "none") {
    return FieldError("tool_choice", "only \"auto\" and \"none\" are supported");
  }
  TF_ASSIGN_OR_RETURN(const auto format, fields.Node("response_format"));
  if (!format) return absl::OkStatus();
  const nlohmann::json& value = format->value();
  if (value.is_object() && value.contains("type") && value["type"] == "text") return absl::OkStatus();
  return FieldError("response_format", "only {\"type\": \"text\"} is supported");
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
  TF_ASSIGN_OR_RETURN(const JinjaValue value, ParseJinjaJson(body, "body"));
  ChatInput input;
  input.messages = NormalizeMessages(value.Get("messages"));
  if (!choice || choice->value() != "none") input.tools = value.Get("tools");
  input.documents = value.Get("documents");
  input.variables = value.Get("chat_template_kwargs");
  input.next_turn = answer ? NextTurn::kAssistant : NextTurn::kNone;
  input.now = LocalNow();
  return input;
}

absl::Status ReadLogprobs(BodyFields& fields, const ApiLimits& limits, GenerationRequest* out) {
  TF_ASSIGN_OR_RETURN(const bool logprobs, fields.Switch("logprobs", false));
  TF_ASSIGN_OR_RETURN(const auto top, fields.Integer("top_logprobs", 0, limits.max_top_logprobs));
  if (top.value_or(0) > 0 && !logprobs) return FieldError("top_logprobs", "needs \"logprobs\": true");
  if (logprobs) out->num_logprobs = static_cast<int32_t>(top.value_or(0));
  out->sampling.num_top_logprobs = std::max(out->num_logprobs, 0);
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<GenerationRequest> ParseChatRequest(std::string body, const ServedModel& model,
                                                   const ApiLimits& limits) {
  TF_ASSIGN_OR_RETURN(BodyFields fields, BodyFields::Parse(body, limits.max_json_depth));
  if (!model.chat_template) {
    return ToStatus({400, "no_chat_template",
                     "the model has no chat template: use /v1/completions, or start serve with --chat-template", ""});
  }
  TF_RETURN_IF_ERROR(RefuseUnsupported(fields));
  TF_ASSIGN_OR_RETURN(const ChatInput conversation, ReadConversationOf(fields, body));
  const absl::StatusOr<TaggedText> text = model.chat_template->Render(conversation);
  TF_RETURN_IF_ERROR(AboutField("messages", text.status()));
  GenerationRequest request;
  request.prompts.push_back({model.tokenizer.Encode(*text), text->text()});
  if (request.prompts[0].ids.empty()) return FieldError("messages", "the chat template makes no text of them");
  TF_RETURN_IF_ERROR(ReadLogprobs(fields, limits, &request));
  constexpr int64_t kMost = std::numeric_limits<int32_t>::max();
  TF_ASSIGN_OR_RETURN(const auto old_name, fields.Integer("max_tokens", 1, kMost));
  TF_ASSIGN_OR_RETURN(const auto max_tokens, fields.Integer("max_completion_tokens", 1, kMost));
  const MaxTokens limit{max_tokens ? max_tokens : old_name, max_tokens ? "max_completion_tokens" : "max_tokens",
                        model.max_model_len};
  TF_RETURN_IF_ERROR(ReadSharedFields(fields, model, limits, limit, &request));
  return request;
}

}  // namespace tokenferry

// Conversations from outside: JSON, checked, and made ready for a template.
#pragma once

#include "absl/strings/string_view.h"
#include "core/io/json.h"
#include "core/status.h"
#include "runtime/text/chat/chat_template.h"

namespace tokenferry {

// InvalidArgument, with line and column, unless `messages` is a list of objects, not empty, each with a `role` out of
// ChatRoles() and a `content` that is a text, a list of {"type": "text", "text": ..}, or null beside tool_calls. The
// content of a tool's answer may be any value. `tool_calls` is a list of objects. Unimplemented: content of another
// type than text (images, sound).
absl::Status CheckMessages(const JsonNode& messages);

// What clients write and templates seldom read: parts of text become one text, joined by newlines; the `arguments` of
// tool calls, where they are a text, become the object that is written in it (left alone where there is none);
// `reasoning` becomes `reasoning_content` too, which is the name that templates know.
JinjaValue NormalizeMessages(const JinjaValue& messages);

// {"messages": [..], "tools", "documents", "add_generation_prompt", "chat_template_kwargs"}, or the bare list of
// messages. Checked and normalized. `now` is left to the caller.
absl::StatusOr<ChatInput> ReadConversation(absl::string_view json, absl::string_view name);

}  // namespace tokenferry

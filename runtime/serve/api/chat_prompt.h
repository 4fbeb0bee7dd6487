// A conversation as a prompt: by the model's chat template.
#pragma once

#include <string>

#include "runtime/serve/api/generation_request.h"

namespace tokenferry {

// Reads messages, tools, documents, chat_template_kwargs, add_generation_prompt, tool_choice and parallel_tool_calls of
// `fields`, and adds the prompt that they make to `out`, and how the answer is to be taken apart. `body` is the text
// that `fields` were parsed from: templates print tools with their keys in the order in which they were written.
// FieldError, or 400 "no_chat_template".
absl::Status ReadChatPrompt(BodyFields& fields, absl::string_view body, const ServedModel& model,
                            GenerationRequest* out);

}  // namespace tokenferry

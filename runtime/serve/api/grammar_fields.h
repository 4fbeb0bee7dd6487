// The fields that say of what form an answer has to be.
#pragma once

#include "absl/strings/string_view.h"
#include "runtime/serve/api/generation_request.h"

namespace tokenferry {

// Reads response_format and, of chats, tool_choice, and sets the grammar that they make, if any. `body` is the text
// that `fields` were parsed from; `out` has been through ReadChatPrompt if it is of a chat. FieldError that names
// keyword and place of what is not supported.
absl::Status ReadGrammar(BodyFields& fields, absl::string_view body, const ServedModel& model, GenerationRequest* out);

}  // namespace tokenferry

// A plain text as a prompt.
#pragma once

#include <cstdint>
#include <vector>

#include "runtime/text/tokenizer.h"

namespace tokenferry {

// A prompt's tokens. It starts with the begin-of-sentence token once if the tokenizer asks for one, also when the text
// itself begins with it.
std::vector<int32_t> EncodePrompt(const Tokenizer& tokenizer, absl::string_view text);

}  // namespace tokenferry

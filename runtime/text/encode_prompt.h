// A plain text as a prompt.
#pragma once

#include <cstdint>
#include <vector>

#include "runtime/text/tokenizer.h"

namespace tokenferry {

// A prompt's tokens. It starts once with Tokenizer::prefix_ids (begin-of-sentence, in most), also when the text itself
// begins with them.
std::vector<int32_t> EncodePrompt(const Tokenizer& tokenizer, absl::string_view text);

}  // namespace tokenferry
